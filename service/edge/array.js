import { RetortError } from "./error.js";

// Arrays of numpy (.npy), and float16.

const KINDS = { "<f4": Float32Array, "<f2": Uint16Array, "|i1": Int8Array, "<i4": Int32Array };

/**
 * Return {data, shape} of a .npy file. kinds: the types that it may have. shape: what it must be, null where any length
 * from 1 on will do. float16 becomes float32. Throws RetortError that names the file.
 */
export function readArray(name, bytes, kinds, shape) {
  const wrong = (why) => new RetortError("bundle_corrupt", `${name}: ${why}`);
  if (bytes.length < 10 || String.fromCharCode(...bytes.subarray(1, 6)) !== "NUMPY") throw wrong("not a .npy array");
  const isLong = bytes[6] > 1;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const start = (isLong ? 12 : 10) + (isLong ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const [, kind] = /'descr':\s*'([^']+)'/.exec(header) ?? [];
  const [, listed] = /'shape':\s*\(([^)]*)\)/.exec(header) ?? [];
  if (!kinds.includes(kind) || listed === undefined || !/'fortran_order':\s*False/.test(header)) {
    throw wrong(`an array of ${kind}, expected ${kinds.join(" or ")}`);
  }
  const found = listed.split(",").filter((part) => part.trim()).map(Number);
  const fits = found.length === shape.length && found.every((n, i) => (shape[i] === null ? n >= 1 : n === shape[i]));
  if (!fits) throw wrong(`its shape is [${found}], expected [${shape.map((n) => n ?? "any")}]`);
  const length = found.reduce((a, b) => a * b, 1);
  const Kind = KINDS[kind];
  if (bytes.length !== start + length * Kind.BYTES_PER_ELEMENT) throw wrong("it is cut off");
  const at = bytes.byteOffset + start;
  const isAligned = at % Kind.BYTES_PER_ELEMENT === 0;
  const raw = isAligned ? new Kind(bytes.buffer, at, length) : new Kind(bytes.slice(start).buffer);
  const data = kind === "<f2" ? widen(raw) : raw;
  if (data instanceof Float32Array && !data.every(Number.isFinite)) throw wrong("contains NaN or infinity");
  return { data, shape: found };
}

/** Return the float32 values of float16 ones. */
function widen(halves) {
  const values = new Float32Array(1 << 16);
  for (let half = 0; half < values.length; half++) {
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    let value = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    if (exponent === 31) value = fraction ? NaN : Infinity;
    values[half] = half & 0x8000 ? -value : value;
  }
  return Float32Array.from(halves, (half) => values[half]);
}
