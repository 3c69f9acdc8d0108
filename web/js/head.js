// The head of the editor: codes edited and faces moved as deepexpo_models.dsid.edit and head.retarget do in Python.
//
// Shapes are Float64Array(478 * 3) in cm: x to the person's left, y up, z to the viewer. Numbers are ARKit's 52. A code is
// {numbers, angles: [yaw, pitch, roll] in degrees, openings: 7 numbers or null}. Nothing here touches a page.

const POINTS = 478;
const VIEWS = { F32: readFloats, F16: readHalves, I16: (buffer) => new Int16Array(buffer) };

// The file web/head.safetensors as {rest, offsets, influence, form, skin, brow_skin, lips, brows, tables}.
export function parseHead(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const { __metadata__: metadata, ...entries } = header;
  const head = { tables: JSON.parse(metadata.tables) };
  for (const [name, { dtype, data_offsets: [begin, end] }] of Object.entries(entries)) {
    head[name] = VIEWS[dtype](buffer.slice(8 + size + begin, 8 + size + end));
  }
  return head;
}

function readFloats(buffer) {
  return Float64Array.from(new Float32Array(buffer));
}

function readHalves(buffer) {
  return Float64Array.from(new Uint16Array(buffer), (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
}

function restingCode(head) {
  return { numbers: new Array(head.tables.units.length).fill(0), angles: [0, 0, 0], openings: null };
}

// What the node's widgets, by their names, make of the codes that came in ({source, onto}, each a code or null).
export function editCode(head, { source = null, onto = null }, settings) {
  const [groups, withPose] = head.tables.take[settings.take];
  const semantics = source ?? onto ?? restingCode(head);
  const base = onto && !groups.length ? onto : semantics;
  const numbers = editNumbers(head, base, onto, groups, settings);
  const pose = withPose ? semantics : onto ?? restingCode(head);
  const same = numbers.every((value, unit) => value === semantics.numbers[unit]);
  return { numbers, angles: turn(head, pose.angles, settings), openings: same ? semantics.openings : null };
}

function editNumbers(head, base, onto, groups, settings) {
  const { tables } = head;
  const { exaggerate, preset, preset_strength: strength } = settings;
  const whole = (onto && base === onto && !groups.length) || groups.length === Object.keys(tables.groups).length;
  const taken = (unit) => groups.some((group) => tables.groups[group][unit]);
  const wanted = preset === tables.rest ? null : vector(head, tables.presets[preset]);
  const added = slide(head, settings);
  return base.numbers.map((number, unit) => {
    let target = number * exaggerate;
    if (!whole && !taken(unit)) target = onto ? onto.numbers[unit] : 0;
    if (wanted) target += (wanted[unit] - target) * strength;
    target += added[unit];
    return target === number ? number : Math.min(Math.max(target, 0), tables.strongest);
  });
}

function slide(head, settings) {
  const total = vector(head, {});
  for (const [name, ways] of Object.entries(head.tables.sliders)) {
    const value = settings[name] ?? 0;
    if (!value) continue;
    const added = vector(head, ways[value > 0 ? 0 : 1]);
    for (let unit = 0; unit < total.length; unit++) total[unit] += Math.abs(value) * added[unit];
  }
  return total;
}

function vector(head, shares) {
  return head.tables.units.map((name) => shares[name] ?? 0);
}

function turn(head, angles, settings) {
  const turned = angles.map((angle, axis) => angle + (settings[head.tables.angles[axis]] ?? 0));
  if (turned.every((angle, axis) => angle === angles[axis])) return angles;
  const widest = head.tables.widest_yaw;
  return [Math.min(Math.max(turned[0], -widest), widest), turned[1], turned[2]];
}

// A resting face with a code's expression. rest: null for the average face.
export function shapeOf(head, rest, { numbers, openings }) {
  const own = rest ?? head.rest;
  const canonical = express(head, head.rest, numbers);
  const measured = measure(head, canonical);
  const target = openings
    ? measured.map((value, number) => value + openings[number])
    : natural(measure(head, own), measure(head, head.rest), measured);
  return setOpenings(head, express(head, own, numbers), target);
}

function express(head, rest, numbers) {
  const shape = Float64Array.from(rest);
  numbers.forEach((number, unit) => {
    if (!number) return;
    const start = unit * POINTS * 3;
    for (let i = 0; i < shape.length; i++) shape[i] += number * head.offsets[start + i];
  });
  return shape;
}

// The gaps of lips, left and right lids in cm, then the left and the right iris' place from the middle of its eye, in eye widths.
function measure(head, shape) {
  const gaps = head.tables.openings.map((opening) => middleGap(shape, opening));
  return [...gaps, ...irisPlace(head, shape, "left", 1), ...irisPlace(head, shape, "right", 2)];
}

// A blink of 1 closes any eye, so lids change by a factor; lips and irises by an amount.
function natural(own, still, moved) {
  return own.map((value, i) => (i === 1 || i === 2 ? (value * moved[i]) / still[i] : value + moved[i] - still[i]));
}

function setOpenings(head, shape, target) {
  let first = 0;
  head.tables.openings.forEach((opening, kind) => {
    open(head, shape, opening, first, Math.min(Math.max(target[kind], 0), opening.widest));
    first += opening.pairs.length;
  });
  look(head, shape, "left", 1, target.slice(3, 5));
  look(head, shape, "right", 2, target.slice(5, 7));
  return shape;
}

function middleGap(shape, { pairs }) {
  const [upper, lower] = pairs[Math.floor(pairs.length / 2)];
  return shape[3 * upper + 1] - shape[3 * lower + 1];
}

function eyeWidth(shape, { corners: [start, end] }) {
  return Math.max(Math.hypot(...[0, 1, 2].map((axis) => shape[3 * start + axis] - shape[3 * end + axis])), 1e-3);
}

function irisPlace(head, shape, side, kind) {
  const opening = head.tables.openings[kind], [pupil] = head.tables.irises[side], [start, end] = opening.corners;
  const width = eyeWidth(shape, opening);
  return [0, 1].map((axis) => (shape[3 * pupil + axis] - (shape[3 * start + axis] + shape[3 * end + axis]) / 2) / width);
}

function open(head, shape, { pairs }, first, gap) {
  const limit = head.tables.almost_closed;
  const gaps = pairs.map(([upper, lower]) => shape[3 * upper + 1] - shape[3 * lower + 1]);
  const own = gaps[Math.floor(gaps.length / 2)];
  const seen = Math.min(Math.max((own - limit) / limit, 0), 1);
  gaps.forEach((mine, pair) => {
    const canonical = head.form[first + pair];
    const seenForm = Math.min(Math.max(mine / Math.max(own, limit), 0), 1.5);
    const change = (canonical + (seenForm - canonical) * seen) * gap - mine;
    const start = (first + pair) * POINTS;
    for (let point = 0; point < POINTS; point++) shape[3 * point + 1] += change * head.influence[start + point];
  });
}

function look(head, shape, side, kind, target) {
  const place = irisPlace(head, shape, side, kind), width = eyeWidth(shape, head.tables.openings[kind]);
  for (const point of head.tables.irises[side]) {
    for (const axis of [0, 1]) shape[3 * point + axis] += (target[axis] - place[axis]) * width;
  }
}

// Yaw, pitch, roll in degrees -> 9 numbers by rows, in the picture's frame (x right, y down, z away): Rz(roll) Ry(yaw) Rx(pitch).
export function rotationOf(angles) {
  const [y, p, r] = angles.map((angle) => (angle * Math.PI) / 180);
  const [sy, cy, sp, cp, sr, cr] = [Math.sin(y), Math.cos(y), Math.sin(p), Math.cos(p), Math.sin(r), Math.cos(r)];
  return [
    cr * cy, cr * sy * sp - sr * cp, -cr * sy * cp - sr * sp,
    sr * cy, sr * sy * sp + cr * cp, -sr * sy * cp + cr * sp,
    sy, -cy * sp, cy * cp,
  ];
}

// Points of a head in cm -> the same turned, in the picture's frame.
export function turned(points, m) {
  const result = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 3) {
    const x = points[i], y = -points[i + 1], z = -points[i + 2];
    result[i] = m[0] * x + m[1] * y + m[2] * z;
    result[i + 1] = m[3] * x + m[4] * y + m[5] * z;
    result[i + 2] = m[6] * x + m[7] * y + m[8] * z;
  }
  return result;
}
