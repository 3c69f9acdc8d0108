// A whole head around the face's 478 points: what is drawn, as meshes of triangles in the picture's frame.
//
// The basis ends at the face's outline. Skull, neck and ears are plain forms of our own that follow the outline, so that a
// turned head has a side; eyes and mouth fill the face's openings. A mesh is {points (3 a vertex), carried (3 a vertex, what
// materials read), parts: [{triangles, material}]}, `dark` vertices, vertices `between`
// two others ([own, a, b]), and `normals` where they are not the surface's own; triangles wind so that
// those seen from outside turn counter-clockwise.

import { rotationOf, turned } from "./head.js";

const RINGS = 9; // of the skull, from the outline to the back
const SKULL = { centre: [0, 2.6, -3.6], radii: [7.9, 9.9, 9.3], back: [0, 0.05, -1] };
const NECK = { top: [0, -3.5, -4.2], bottom: [0, -19, -5.5], radii: [5.1, 6.2], rings: 6, sides: 28 };
const EAR = { place: [7.75, 0.4, -3.9], radii: [0.6, 2.8, 1.7], flare: 0.45, tilt: -0.22, rings: 8, sides: 14 };
const EYEBALL = 1.25, BEHIND_LIDS = 0.08, BEHIND_LIPS = 0.08; // cm
const TEETH = { upper: 0.32, lower: 0.12 }; // cm from the closed lips' line to the teeth's edges

// rest, shape: cm, of head.js; angles in degrees.
export function bust(head, rest, shape, angles) {
  const { tables } = head, matrix = rotationOf(angles);
  const face = turned(shape, matrix);
  const skull = skullOf(tables.oval, shape, matrix, face);
  const skin = { triangles: joined(head.skin, skull.triangles), material: "skin" };
  const brows = { triangles: head.brow_skin, material: "brow" };
  return [
    {
      points: skull.points,
      carried: skinCarried(head, skull.points.length / 3),
      parts: [skin, brows],
      dark: rimsOf(tables),
      between: skull.between,
    },
    neckOf(matrix, angles),
    ...[-1, 1].map((side) => earOf(side, matrix)),
    ...["left", "right"].map((side) => eyeOf(head, side, shape, matrix)),
    mouthOf(head, rest, shape, matrix),
  ];
}

function joined(a, b) {
  const all = new Uint16Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

// Vertices in their own shade: the lips' inner edges and the lashes.
function rimsOf({ mouth_ring: mouth, eye_rings: eyes }) {
  return [...mouth, ...Object.values(eyes).flatMap((ring) => ring.slice(0, ring.length / 2 + 1))];
}

function skinCarried(head, count) {
  const carried = new Float64Array(3 * count);
  for (let i = 0; i < head.lips.length; i++) {
    carried[3 * i] = head.lips[i];
    carried[3 * i + 1] = head.brows[i];
  }
  return carried;
}

// Rings from the outline to the back of the skull, after the face's own vertices. Two columns for each point of the outline.
function skullOf(oval, shape, matrix, face) {
  const { centre, radii, back } = SKULL;
  const outline = outlineOf(oval, shape), columns = outline.length;
  const added = new Float64Array(3 * (columns * RINGS + 1));
  outline.forEach((from, column) => {
    const start = from.map((value, axis) => value - centre[axis]), length = Math.hypot(...start);
    const angle = Math.acos(Math.min(Math.max(dot(start, back) / length, -1), 1));
    for (let ring = 0; ring < RINGS; ring++) {
      const t = ring / RINGS, a = Math.sin((1 - t) * angle) / length, b = Math.sin(t * angle);
      const way = [0, 1, 2].map((axis) => (a * start[axis] + b * back[axis]) / Math.sin(angle));
      const wanted = 1 / Math.hypot(...way.map((value, axis) => value / radii[axis]));
      const radius = wanted + (length - wanted) * (1 - t) ** 3;
      const at = 3 * (ring * columns + column);
      for (const axis of [0, 1, 2]) added[at + axis] = centre[axis] + way[axis] * radius;
    }
  });
  const pole = added.length - 3;
  for (const axis of [0, 1, 2]) added[pole + axis] = centre[axis] + back[axis] * radii[2];
  const points = new Float64Array(face.length + added.length);
  points.set(face);
  points.set(turned(added, matrix), face.length);
  const first = face.length / 3;
  const between = oval.map((point, i) => [first + 2 * i + 1, point, oval[(i + 1) % oval.length]]);
  return { points, triangles: skullTriangles(oval, first, columns), between };
}

// The outline's points, and the middles between them.
function outlineOf(oval, shape) {
  const at = (column) => [0, 1, 2].map((axis) => shape[3 * oval[column % oval.length] + axis]);
  return oval.flatMap((_, column) => [at(column), lerp(at(column), at(column + 1), 0.5)]);
}

// The first ring's even columns are the face's own vertices, so that the skin is smooth across the outline.
function skullTriangles(oval, first, columns) {
  const at = (ring, column) => (ring || column % 2 ? first + ring * columns + column : oval[column / 2]);
  const pole = first + RINGS * columns, triangles = [];
  for (let column = 0; column < columns; column++) {
    const next = (column + 1) % columns;
    for (let ring = 0; ring < RINGS - 1; ring++) {
      const [a, b, c, d] = [at(ring, column), at(ring, next), at(ring + 1, column), at(ring + 1, next)];
      triangles.push(a, b, c, b, d, c);
    }
    triangles.push(at(RINGS - 1, column), at(RINGS - 1, next), pole);
  }
  return triangles;
}

// The neck's top goes with the head, its bottom stays.
function neckOf(matrix, angles) {
  const { top, bottom, radii, rings, sides } = NECK;
  const half = rotationOf([angles[0] * 0.35, angles[1] * 0.2, angles[2] * 0.2]);
  const points = new Float64Array(3 * rings * sides), triangles = [];
  for (let ring = 0; ring < rings; ring++) {
    const t = ring / (rings - 1);
    for (let side = 0; side < sides; side++) {
      const angle = (2 * Math.PI * side) / sides, radius = radii[0] + (radii[1] - radii[0]) * t * t;
      const own = [Math.sin(angle) * radius, 0, Math.cos(angle) * radius];
      const place = Float64Array.from(own, (value, axis) => value + top[axis] + (bottom[axis] - top[axis]) * t);
      const high = turned(place, matrix), low = turned(place, half);
      for (const axis of [0, 1, 2]) points[3 * (ring * sides + side) + axis] = high[axis] + (low[axis] - high[axis]) * t;
      if (!ring) continue;
      const next = (side + 1) % sides, [a, b] = [(ring - 1) * sides + side, (ring - 1) * sides + next];
      triangles.push(a, a + sides, b, b, a + sides, b + sides);
    }
  }
  return { points, carried: new Float64Array(points.length), parts: [{ triangles, material: "skin" }] };
}

// A flat ellipsoid.
function earOf(side, matrix) {
  const { place, radii, flare, tilt, rings, sides } = EAR;
  const points = new Float64Array(3 * (rings + 1) * sides), triangles = [];
  for (let ring = 0; ring <= rings; ring++) {
    const polar = (Math.PI * ring) / rings;
    for (let column = 0; column < sides; column++) {
      const around = (2 * Math.PI * column) / sides;
      const x = Math.sin(polar) * Math.sin(around) * radii[0];
      const y = Math.cos(polar) * radii[1], z = Math.sin(polar) * Math.cos(around) * radii[2];
      const at = 3 * (ring * sides + column);
      points[at] = side * (place[0] + x - z * flare);
      points[at + 1] = place[1] + y * Math.cos(tilt) - z * Math.sin(tilt);
      points[at + 2] = place[2] + y * Math.sin(tilt) + z * Math.cos(tilt);
      if (!ring) continue;
      const next = (column + 1) % sides, [a, b] = [(ring - 1) * sides + column, (ring - 1) * sides + next];
      const quad = [a, a + sides, b, b, a + sides, b + sides];
      triangles.push(...(side > 0 ? quad : quad.reverse()));
    }
  }
  const parts = [{ triangles, material: "skin" }];
  return { points: turned(points, matrix), carried: new Float64Array(points.length), parts };
}

// A fan over the lids' rim. Carried: from the iris' middle in iris radii (x, y), and 1 at the rim.
function eyeOf(head, side, shape, matrix) {
  const ring = head.tables.eye_rings[side], [pupil, ...iris] = head.tables.irises[side];
  const at = (point) => [0, 1, 2].map((axis) => shape[3 * point + axis]);
  const centre = at(pupil);
  const radius = iris.reduce((sum, point) => sum + distance(at(point), centre), 0) / iris.length;
  const rim = ring.map(at).map(([x, y, z]) => [x, y, z - BEHIND_LIDS]), middle = mean(rim);
  const ball = [middle[0], middle[1], middle[2] - EYEBALL];
  const vertices = [middle, ...rim.map((p) => lerp(p, middle, 0.35)), ...rim];
  const flat = Float64Array.from(vertices.flat());
  const normals = turned(Float64Array.from(vertices.flatMap((p) => p.map((value, axis) => value - ball[axis]))), matrix);
  const edge = (i) => (i === 0 ? 0 : i <= ring.length ? 0.3 : 1);
  const carried = Float64Array.from(
    vertices.flatMap((p, i) => [(p[0] - centre[0]) / radius, (p[1] - centre[1]) / radius, edge(i)]));
  const triangles = [];
  ring.forEach((_, i) => {
    const next = (i + 1) % ring.length, [a, b] = [1 + i, 1 + next], [c, d] = [a + ring.length, b + ring.length];
    triangles.push(0, a, b, a, c, b, b, c, d);
  });
  return { points: turned(flat, matrix), normals, carried, parts: [{ triangles, material: "eye" }] };
}

// A strip between the lips. Carried: below the upper teeth's edge, above the lower teeth's (cm), and from the middle to a corner.
function mouthOf(head, rest, shape, matrix) {
  const ring = head.tables.mouth_ring, half = ring.length / 2;
  const upper = ring.slice(0, half + 1), lower = [ring[0], ...ring.slice(half + 1).reverse(), ring[half]];
  const [middleUp, middleLow] = [upper[half / 2], lower[half / 2]];
  const chin = 152, dropped = shape[3 * chin + 1] - rest[3 * chin + 1];
  const line = (rest[3 * middleUp + 1] + rest[3 * middleLow + 1]) / 2;
  const width = Math.abs(shape[3 * ring[0]] - shape[3 * ring[half]]) / 2;
  const ids = [...upper, ...lower];
  const flat = Float64Array.from(ids.flatMap((id) => [shape[3 * id], shape[3 * id + 1], shape[3 * id + 2] - BEHIND_LIPS]));
  const points = turned(flat, matrix);
  const carried = Float64Array.from(ids.flatMap((id) => [
    line - TEETH.upper - shape[3 * id + 1],
    shape[3 * id + 1] - (line + dropped - TEETH.lower),
    shape[3 * id] / Math.max(width, 0.1),
  ]));
  const normals = new Float64Array(points.length).map((_, i) => (i % 3 === 2 ? -1 : 0));
  const triangles = [];
  for (let i = 0; i < half; i++) {
    const [a, b, c, d] = [i, i + 1, i + half + 1, i + half + 2];
    triangles.push(a, c, b, b, c, d);
  }
  return { points, normals, carried, parts: [{ triangles, material: "mouth" }] };
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

function mean(points) {
  return [0, 1, 2].map((axis) => points.reduce((sum, p) => sum + p[axis], 0) / points.length);
}

function lerp(a, b, share) {
  return a.map((value, axis) => value + (b[axis] - value) * share);
}
