// An ONNX model of one node, in protobuf's wire format: scores = users · columns.

const TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6 };

/**
 * Return the model. operator: MatMul, or MatMulInteger with the zero point `middle`. columns: Float32Array or Int8Array
 * [dim, n], as it lies in memory.
 */
export function productModel(operator, columns, dim, n, middle = null) {
  const isWhole = columns instanceof Int8Array;
  const constants = [constant("columns", isWhole ? "int8" : "float32", [dim, n], columns)];
  if (isWhole) constants.push(constant("middle", "uint8", [], Uint8Array.of(middle)));
  const inputs = ["users", "columns", ...(isWhole ? ["middle"] : [])].map((name) => text(1, name));
  const node = join([...inputs, text(2, "scores"), text(4, operator)]);
  const graph = join([
    bytes(1, node),
    text(2, "product"),
    ...constants.map((each) => bytes(5, each)),
    bytes(11, described("users", isWhole ? "uint8" : "float32", dim)),
    bytes(12, described("scores", isWhole ? "int32" : "float32", n)),
  ]);
  return join([integer(1, 8), bytes(8, join([text(1, ""), integer(2, 17)])), bytes(7, graph)]);
}

function constant(name, type, shape, values) {
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return join([...shape.map((size) => integer(1, size)), integer(2, TYPES[type]), text(8, name), bytes(9, raw)]);
}

/** A ValueInfoProto: name, type and shape [batch, width]. */
function described(name, type, width) {
  const shape = join([bytes(1, text(2, "batch")), bytes(1, integer(1, width))]);
  return join([text(1, name), bytes(2, bytes(1, join([integer(1, TYPES[type]), bytes(2, shape)])))]);
}

function text(field, value) {
  return bytes(field, new TextEncoder().encode(value));
}

function bytes(field, value) {
  return join([varint(field * 8 + 2), varint(value.length), value]);
}

function integer(field, value) {
  return join([varint(field * 8), varint(value)]);
}

function varint(value) {
  const out = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) + 128);
  return Uint8Array.from([...out, value]);
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}
