// Packed arrays of the payload, and the few helpers over sorted numbers that everything else uses.

const ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
}

// A loop over every letter holds up the first picture, so a browser that decodes by itself does it.
function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64)
  const text = atob(base64)
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes
}

function unpack(packed) {
  return new ARRAYS[packed.type](bytesOf(packed.data).buffer)
}

// Numbers from 0 to 3 that stand four in a byte, the first in the lowest bits.
function unpackPairs(packed, count) {
  const bytes = unpack(packed)
  const out = new Uint8Array(count)
  for (let i = 0; i < count; i++) out[i] = (bytes[i >> 2] >> (2 * (i & 3))) & 3
  return out
}

// Where each group begins, and at the end where the last one stops: [0, a, a + b, ...]
function sums(counts) {
  const out = new Int32Array(counts.length + 1)
  for (let i = 0; i < counts.length; i++) out[i + 1] = out[i] + counts[i]
  return out
}

// Positions of each key's entries, in order: those of key g are items[at[g]] to items[at[g + 1] - 1]. Keys
// below 0 are left out.
function grouped(keys, groups) {
  const counts = new Int32Array(groups)
  for (const key of keys) if (key >= 0) counts[key]++
  const at = sums(counts)
  const next = at.slice()
  const items = new Int32Array(at[groups])
  for (let i = 0; i < keys.length; i++) if (keys[i] >= 0) items[next[keys[i]]++] = i
  return { at, items }
}

// The first position from `from` to `to` whose number is larger than `value`; `to` where there is none.
// Ascending numbers only.
function above(numbers, value, from = 0, to = numbers.length) {
  while (from < to) {
    const middle = (from + to) >> 1
    if (numbers[middle] > value) to = middle
    else from = middle + 1
  }
  return from
}

const clamp = (value, least, most) => Math.max(least, Math.min(most, value))

// The place from 0 to `most` that is nearest to what a host or a payload says; `otherwise` where that is no
// number.
function placed(value, most, otherwise) {
  return Number.isFinite(value) ? clamp(Math.round(value), 0, most) : otherwise
}

// A sentence of the payload with its {names} filled in.
function say(template, values = {}) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "")
}
