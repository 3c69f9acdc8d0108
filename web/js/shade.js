// A small software renderer: smooth meshes in soft light, into a plain array of pixels. It needs no GPU and no page, and draws
// a head of 2,000 triangles in a few milliseconds.

const CAMERA = { distance: 62, middle: [0, -1.2, 0], height: 29 }; // cm: from the head, what is in the middle, how much is seen
const BACKGROUND = { top: [0.021, 0.023, 0.026], bottom: [0.055, 0.058, 0.063] }; // colours are linear, 0 to 1
const SKIN = [0.62, 0.5, 0.43], LIPS = [0.42, 0.2, 0.18], BROWS = [0.1, 0.075, 0.06];
const WHITE = [0.74, 0.73, 0.71], IRIS = [0.12, 0.2, 0.26], PUPIL = [0.008, 0.008, 0.01];
const TOOTH = [0.72, 0.69, 0.62], MOUTH = [0.05, 0.012, 0.012], TONGUE = [0.2, 0.055, 0.05];
const KEY = unit([-0.5, -0.62, -0.6]), FILL = unit([0.85, -0.05, -0.5]), RIM = unit([0.7, -0.5, 0.6]); // to the lights
const HALF = unit([KEY[0], KEY[1], KEY[2] - 1]); // between the key light and the viewer
const HOLLOW = 0.45, IN_SHADE = -0.65; // how dark folds are, and rims
const WIDTH = 9; // numbers of a vertex
const SLACK = 1e-6; // of a pixel: an edge through a pixel's middle belongs to both its triangles
const IRIS_EDGE = 0.82, PUPIL_EDGE = 0.4; // of the iris' radius

// Each writes a colour for what a pixel carries (a, b, c) and returns how much it shines.
const MATERIALS = {
  skin: {
    power: 4,
    paint(colour, lips, brows, hollow) {
      for (let i = 0; i < 3; i++) colour[i] = (SKIN[i] + (LIPS[i] - SKIN[i]) * lips * 0.75) * (1 + hollow);
      return 0.1 + 0.14 * lips;
    },
  },
  brow: {
    power: 4,
    paint(colour, lips, across, hollow) {
      const share = 0.85 * step(1, 0.35, Math.abs(across));
      for (let i = 0; i < 3; i++) colour[i] = mix(SKIN[i], BROWS[i], share) * (1 + hollow);
      return 0.1 * (1 - share);
    },
  },
  eye: {
    power: 6,
    bothSides: true,
    paint(colour, x, y, rim) {
      const distance = Math.sqrt(x * x + y * y), shadow = 1 - 0.5 * rim * rim;
      const iris = step(IRIS_EDGE + 0.1, IRIS_EDGE - 0.06, distance), pupil = step(PUPIL_EDGE + 0.06, PUPIL_EDGE - 0.06, distance);
      const ring = 0.45 + 0.85 * step(IRIS_EDGE, 0.3, distance);
      for (let i = 0; i < 3; i++) colour[i] = mix(mix(WHITE[i], IRIS[i] * ring, iris), PUPIL[i], pupil) * shadow;
      return 0.5;
    },
  },
  mouth: {
    power: 0,
    bothSides: true,
    paint(colour, belowUpper, aboveLower, x) {
      const round = 0.75 * (1 - 0.75 * Math.min(x * x * 1.3, 1));
      const tooth = Math.max(step(0.05, -0.05, belowUpper), 0.8 * step(0.05, -0.05, aboveLower));
      const tongue = step(1.6, 0.3, aboveLower);
      for (let i = 0; i < 3; i++) colour[i] = mix(mix(MOUTH[i], TONGUE[i], tongue), TOOTH[i] * round, tooth);
      return 0;
    },
  },
};

export class Picture {
  constructor(side) {
    this.side = side;
    this.pixels = new Uint8ClampedArray(side * side * 4);
    this.depth = new Float32Array(side * side);
    this.colour = new Float64Array(3);
    this.background = backgroundOf(side);
  }

  // Meshes as of bust.js.
  draw(meshes) {
    this.pixels.set(this.background);
    this.depth.fill(Infinity);
    for (const mesh of meshes) {
      const normals = mesh.normals ?? normalsOf(mesh);
      const carried = mesh.normals ? mesh.carried : withHollows(mesh, normals);
      const vertices = packed(project(mesh.points, this.side), normals, carried);
      for (const { triangles, material } of mesh.parts) {
        for (let t = 0; t < triangles.length; t += 3) {
          this.fill(vertices, WIDTH * triangles[t], WIDTH * triangles[t + 1], WIDTH * triangles[t + 2], MATERIALS[material]);
        }
      }
    }
  }

  // One triangle, row by row. v: vertices; i, j, k: where the corners begin in it.
  fill(v, i, j, k, { paint, power, bothSides }) {
    const area = (v[j] - v[i]) * (v[k + 1] - v[i + 1]) - (v[k] - v[i]) * (v[j + 1] - v[i + 1]);
    if (area === 0 || (area > 0 && !bothSides)) return; // y runs down: what faces the viewer turns clockwise
    const x0 = v[i], y0 = v[i + 1], x1 = v[j], y1 = v[j + 1], x2 = v[k], y2 = v[k + 1];
    const { side, depth, colour, pixels } = this;
    const du = (y1 - y2) / area, dv = (y2 - y0) / area, dw = -du - dv; // of the corners' shares, from pixel to pixel
    const first = Math.max(Math.ceil(Math.min(y0, y1, y2)), 0), last = Math.min(Math.floor(Math.max(y0, y1, y2)), side - 1);
    for (let y = first; y <= last; y++) {
      const u0 = (x1 * (y2 - y) - x2 * (y1 - y)) / area, v0 = (x2 * (y0 - y) - x0 * (y2 - y)) / area, w0 = 1 - u0 - v0;
      const left = Math.max(du > 0 ? -u0 / du : 0, dv > 0 ? -v0 / dv : 0, dw > 0 ? -w0 / dw : 0, 0) - SLACK;
      const right = Math.min(du < 0 ? -u0 / du : side, dv < 0 ? -v0 / dv : side, dw < 0 ? -w0 / dw : side, side - 1.5) + SLACK;
      for (let x = Math.max(Math.ceil(left), 0); x <= right; x++) {
        const a = u0 + du * x, b = v0 + dv * x, c = 1 - a - b, at = y * side + x;
        const z = a * v[i + 2] + b * v[j + 2] + c * v[k + 2];
        if (z >= depth[at]) continue;
        depth[at] = z;
        let nx = a * v[i + 3] + b * v[j + 3] + c * v[k + 3];
        let ny = a * v[i + 4] + b * v[j + 4] + c * v[k + 4];
        let nz = a * v[i + 5] + b * v[j + 5] + c * v[k + 5];
        const scale = 1 / Math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12);
        nx *= scale; ny *= scale; nz *= scale;
        const gloss = paint(
          colour,
          a * v[i + 6] + b * v[j + 6] + c * v[k + 6],
          a * v[i + 7] + b * v[j + 7] + c * v[k + 7],
          a * v[i + 8] + b * v[j + 8] + c * v[k + 8],
        );
        const light = lightOn(nx, ny, nz), shine = gloss * raised(facing(HALF, nx, ny, nz), power);
        const pixel = 4 * at;
        pixels[pixel] = 255 * Math.sqrt(colour[0] * light + shine);
        pixels[pixel + 1] = 255 * Math.sqrt(colour[1] * light + shine);
        pixels[pixel + 2] = 255 * Math.sqrt(colour[2] * light + shine);
      }
    }
  }
}

function lightOn(x, y, z) {
  const key = facing(KEY, x, y, z, 0.25) / 1.25;
  return 0.16 - 0.07 * y + 0.95 * key + 0.2 * facing(FILL, x, y, z) + 0.25 * facing(RIM, x, y, z);
}

// Cosine to a direction; `wrap` brings light around the edge.
function facing(way, x, y, z, wrap = 0) {
  const share = way[0] * x + way[1] * y + way[2] * z + wrap;
  return share > 0 ? share : 0;
}

// value to the power of 2 ** times
function raised(value, times) {
  for (let n = 0; n < times; n++) value *= value;
  return value;
}

// Per vertex: x, y, z on the picture, the normal, what is carried.
function packed(seen, normals, carried) {
  const vertices = new Float64Array(seen.length * 3);
  for (let i = 0, at = 0; i < seen.length; i += 3, at += WIDTH) {
    for (let c = 0; c < 3; c++) {
      vertices[at + c] = seen[i + c];
      vertices[at + 3 + c] = normals[i + c];
      vertices[at + 6 + c] = carried[i + c];
    }
  }
  return vertices;
}

// Vertices -> pixels and depth.
function project(points, side) {
  const { distance, middle, height } = CAMERA, seen = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 3) {
    const z = points[i + 2] - middle[2] + distance, scale = (side * distance) / (height * z);
    seen[i] = side / 2 + (points[i] - middle[0]) * scale;
    seen[i + 1] = side / 2 + (points[i + 1] - middle[1]) * scale;
    seen[i + 2] = z;
  }
  return seen;
}

function normalsOf({ points, parts, between = [] }) {
  const normals = new Float64Array(points.length);
  for (const { triangles } of parts) {
    for (let t = 0; t < triangles.length; t += 3) addNormal(normals, points, 3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]);
  }
  for (const [own, a, b] of between) {
    for (let axis = 0; axis < 3; axis++) normals[3 * own + axis] = normals[3 * a + axis] + normals[3 * b + axis];
  }
  for (let i = 0; i < normals.length; i += 3) {
    const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
    normals[i] /= length; normals[i + 1] /= length; normals[i + 2] /= length;
  }
  return normals;
}

function addNormal(normals, points, i, j, k) {
  const ax = points[j] - points[i], ay = points[j + 1] - points[i + 1], az = points[j + 2] - points[i + 2];
  const bx = points[k] - points[i], by = points[k + 1] - points[i + 1], bz = points[k + 2] - points[i + 2];
  const nx = ay * bz - az * by, ny = az * bx - ax * bz, nz = ax * by - ay * bx;
  for (const at of [i, j, k]) {
    normals[at] += nx; normals[at + 1] += ny; normals[at + 2] += nz;
  }
}

// The third carried number: how much darker a fold or a hollow is, from the turn of the normals along the edges.
function withHollows({ points, carried, parts, dark = [] }, normals) {
  const bend = new Float64Array(points.length / 3), count = new Float64Array(points.length / 3);
  for (const { triangles } of parts) {
    for (let t = 0; t < triangles.length; t++) {
      const a = triangles[t], b = triangles[t % 3 === 2 ? t - 2 : t + 1];
      let turn = 0, length = 1e-9;
      for (let axis = 0; axis < 3; axis++) {
        const way = points[3 * b + axis] - points[3 * a + axis];
        turn += (normals[3 * b + axis] - normals[3 * a + axis]) * way;
        length += way * way;
      }
      bend[a] += turn / length; bend[b] += turn / length;
      count[a]++; count[b]++;
    }
  }
  const result = Float64Array.from(carried);
  for (let i = 0; i < bend.length; i++) result[3 * i + 2] = Math.max(Math.min((HOLLOW * bend[i]) / (count[i] || 1), 0.06), -0.4);
  for (const i of dark) result[3 * i + 2] = IN_SHADE;
  return result;
}

function backgroundOf(side) {
  const pixels = new Uint8ClampedArray(side * side * 4);
  for (let i = 0; i < side * side; i++) {
    const share = Math.floor(i / side) / side;
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = 255 * Math.sqrt(mix(BACKGROUND.top[c], BACKGROUND.bottom[c], share));
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

function mix(a, b, share) {
  return a + (b - a) * share;
}

// 0 at `from`, 1 at `to`, smooth between.
function step(from, to, value) {
  const share = Math.min(Math.max((value - from) / (to - from), 0), 1);
  return share * share * (3 - 2 * share);
}

function unit(v) {
  const length = Math.hypot(...v);
  return v.map((value) => value / length);
}
