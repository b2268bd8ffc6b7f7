// Arrays that Python packed, read row by row: a page may hold millions of scores and shows one row of them.

class Numbers {
  constructor(value) {
    this.packed = Array.isArray(value) ? null : value;
    this.shape = this.packed ? value.shape : shapeOf(value);
    this.listed = this.packed ? null : Float64Array.from(value.flat(Infinity));
    this.last = [-1, -1, null]; // of slices, as the rows of a layer are asked for again and again
  }

  slice(start, count) {
    if (this.listed) return this.listed.subarray(start, start + count);
    if (this.last[0] === start && this.last[1] === count) return this.last[2];
    const found = decoded(this.packed, start, count);
    this.last = [start, count, found];
    return found;
  }
}

const shapeOf = (value) => (Array.isArray(value) ? [value.length, ...shapeOf(value[0])] : []);

function decoded({dtype, base64}, start, count) {
  const size = dtype === "<f4" ? 4 : 8;
  const first = Math.floor((start * size) / 3); // four letters are three bytes
  const letters = base64.slice(first * 4, Math.ceil(((start + count) * size) / 3) * 4);
  const text = atob(letters);
  const bytes = new Uint8Array(count * size);
  const skipped = start * size - first * 3;
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(skipped + i);
  return size === 4 ? Float64Array.from(new Float32Array(bytes.buffer)) : new Float64Array(bytes.buffer);
}

const brief = (value) =>
  value === 0 ? "0" : value >= 0.001 && value < 1e4 ? value.toFixed(4) : value.toExponential(2);
