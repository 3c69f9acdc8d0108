"""GLSL of the heads: skin, eyes, teeth, hair and plain things in one program, one for shadows, one for what is behind.

Positions are in the camera frame of dsid.rotation (y down, z away), in decimetres; colours are linear until the last line.
"""

KINDS = {"skin": 0, "eye": 1, "mouth": 2, "hair": 3, "plain": 4}

VERTEX = """
#version 330
uniform mat4 clip; uniform mat4 light_clip;
in vec3 at; in vec3 normal; in vec2 uv; in vec4 extra;
out vec3 place; out vec3 facing; out vec2 texel; out vec4 more; out vec4 lamp;
void main() {
  place = at; facing = normal; texel = uv; more = extra;
  lamp = light_clip * vec4(at, 1);
  gl_Position = clip * vec4(at, 1);
}
"""

FRAGMENT = """
#version 330
in vec3 place; in vec3 facing; in vec2 texel; in vec4 more; in vec4 lamp;
// more: of skin (cloth, beard, -, -), else (-, -, open, alpha)
out vec4 colour;
uniform int kind;
const float SEEN_CLOTH = 0.;                                        // its alpha in the finished picture; all else has 1
uniform sampler2D first; uniform sampler2D second; uniform sampler2D masks; uniform sampler2DShadow shadow;
uniform vec3 key_dir, key, fill_dir, fill, sky, ground, rim;
uniform float gloss, wrap, shadows, exposure;
uniform float mixing, gamma, stubble, makeup, freckles, alpha_cut;
uniform vec3 tint, lip, cloth, cloth_second, iris, gaze, centre; uniform vec4 pattern; uniform vec2 rings; uniform mat3 head;

float hash(vec2 p) { return fract(sin(dot(p, vec2(127.1, 311.7))) * 43758.5453); }
float noise(vec2 p) {
  vec2 i = floor(p), f = fract(p); f = f * f * (3. - 2. * f);
  return mix(mix(hash(i), hash(i + vec2(1, 0)), f.x), mix(hash(i + vec2(0, 1)), hash(i + vec2(1, 1)), f.x), f.y);
}
float lit_by_lamp() {
  if (shadows < .5) return 1.;
  vec3 at = lamp.xyz / lamp.w * .5 + .5; at.z -= .006;
  float sum = 0.;
  for (int i = -1; i < 2; i += 2) for (int j = -1; j < 2; j += 2) sum += texture(shadow, at + vec3(vec2(i, j) / 360., 0));
  return sum * .25;
}
void main() {
  vec3 n = normalize(facing), view = normalize(-place);
  if (dot(n, view) < 0. && kind != 1) n = -n;
  vec3 base = tint; float shine = 18., strength = gloss, alpha = 1., open = 1.;
  bool skin = kind == 0 && more.x < .5;
  if (kind == 0) {
    vec4 part = texture(masks, texel);                              // lips, lids, inside of the mouth, ears
    float inside = part.b, grain = noise(texel * 900.) * .6 + noise(texel * 300.) * .4;
    base = pow(mix(texture(first, texel).rgb, texture(second, texel).rgb, mixing), vec3(gamma)) * tint;
    base = mix(base, base * lip * 1.6, makeup * part.r);
    base = mix(base, base * vec3(.8, .6, .65), makeup * .5 * part.g);
    base *= 1. - .35 * smoothstep(.62, .75, noise(texel * 420.)) * freckles * (1. - inside);
    float beard = more.y * stubble * (1. - part.r) * (1. - inside);
    base = mix(base, base * vec3(.28, .25, .25), clamp(beard * (.55 + .7 * grain), 0., 1.));
    base *= 1. + .25 * (grain - .5);
    open = mix(1., .18, inside); strength *= mix(1., 1.8, part.r);
    if (!skin) {
      float striped = step(.5, fract(dot(place.xy, pattern.xy) * pattern.z)), mottled = noise(place.xy * pattern.z * 3.);
      float share = pattern.w < .5 ? 0. : pattern.w < 1.5 ? striped : mottled;
      base = mix(cloth, cloth_second, share); strength = .1 * gloss; alpha = SEEN_CLOTH;
    }
  } else if (kind == 1) {
    n = normalize(place - centre);
    vec3 local = normalize(transpose(head) * (place - centre));
    float angle = acos(clamp(dot(local, gaze), -1., 1.));
    vec3 white = vec3(.84, .80, .78) * mix(1., .78, smoothstep(.5, 1.3, angle));
    white.gb *= mix(1., .9, smoothstep(.6, 1.2, angle));
    float ray = noise(vec2(atan(local.x - gaze.x, local.y - gaze.y) * 9., angle * 14.));
    vec3 disc = iris * (.55 + .8 * ray) * mix(1.25, .75, smoothstep(rings.x, rings.y, angle));
    disc = mix(vec3(.012), disc, smoothstep(rings.x - .03, rings.x + .03, angle));
    disc *= mix(1., .35, smoothstep(rings.y - .09, rings.y, angle));
    base = mix(disc, white, smoothstep(rings.y - .03, rings.y + .05, angle));
    open = mix(.55, 1., smoothstep(.75, .15, local.y + .15)); strength = 1.6; shine = 90.;
  } else if (kind == 2) {
    base = pow(texture(first, texel).rgb, vec3(2.2)) * tint; strength = .5; open = more.z;
  } else if (kind == 3) {
    vec4 strand = texture(first, texel); alpha = strand.a;
    if (alpha < alpha_cut) discard;
    base = 2. * strand.r * tint; strength = gloss * .8; shine = 12.; open = more.z;  // see render.even_hair
  } else {
    shine = 60.; alpha = more.w;
  }
  float lit = lit_by_lamp(), slope = dot(n, key_dir);
  float direct = clamp((slope + wrap) / (1. + wrap), 0., 1.) * mix(1., lit, smoothstep(-.05, .2, slope));
  vec3 soft = skin ? vec3(1., .93, .90) : vec3(1.);                  // light that went through skin is red
  vec3 ambient = mix(ground, sky, .5 - .5 * n.y);
  vec3 light = key * pow(vec3(direct), 1. / soft) + fill * clamp((dot(n, fill_dir) + .3) / 1.3, 0., 1.) + ambient * open;
  vec3 half1 = normalize(view + key_dir), half2 = normalize(view + fill_dir);
  float edge = 1. - clamp(dot(n, view), 0., 1.);
  vec3 spots = key * lit * pow(clamp(dot(n, half1), 0., 1.), shine) + fill * pow(clamp(dot(n, half2), 0., 1.), shine);
  vec3 sum = base * light * mix(open, 1., .5) + strength * spots * open * .25 * mix(1., 2., .25 + .75 * pow(edge, 4.));
  sum = (sum + rim * pow(edge, 3.) * .35 * open) * exposure;
  colour = vec4(pow(clamp(sum / (1. + .25 * sum), 0., 1.), vec3(1. / 2.2)), alpha);
}
"""

SHADOW_VERTEX = """
#version 330
uniform mat4 light_clip; in vec3 at; in vec2 uv; out vec2 texel;
void main() { texel = uv; gl_Position = light_clip * vec4(at, 1); }
"""
SHADOW_FRAGMENT = """
#version 330
in vec2 texel; uniform sampler2D first; uniform int cut;
void main() { if (cut == 1 && texture(first, texel).a < .5) discard; }
"""
BACK_VERTEX = """
#version 330
in vec2 corner; out vec2 texel;
void main() { texel = corner * .5 + .5; gl_Position = vec4(corner, .999, 1); }
"""
BACK_FRAGMENT = """
#version 330
in vec2 texel; uniform sampler2D first; out vec4 colour;
void main() { colour = vec4(texture(first, texel).rgb, 1); }
"""
