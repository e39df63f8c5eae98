// Shared arithmetic of the widgets. A matrix is an array of rows; tokens are rows, weights act on the right.
// The last argument rounds the result of every single operation: `float64` leaves it alone, `float32` is Math.fround,
// which reproduces IEEE single precision bit for bit in + - * / and sqrt (exp is rounded once, at its end).

export const float64 = (x) => x;
export const float32 = Math.fround;
export const EPS64 = 2 ** -52;
export const EPS32 = 2 ** -23;

export const map = (f, ...ms) => ms[0].map((row, i) => row.map((_, j) => f(...ms.map((m) => m[i][j]))));
export const transpose = (a) => a[0].map((_, j) => a.map((row) => row[j]));
export const maxAbs = (a) => a.reduce((best, row) => row.reduce((b, x) => (Math.abs(x) <= b ? b : Math.abs(x)), best), 0);
export const subtract = (a, b, round = float64) => map((x, y) => round(x - y), a, b);

export function matmul(a, b, round = float64) {
  return a.map((row) => b[0].map((_, j) => {
    let sum = round(row[0] * b[0][j]);
    for (let k = 1; k < row.length; k++) sum = round(sum + round(row[k] * b[k][j]));
    return sum;
  }));
}

// Gauss-Jordan elimination with partial pivoting. Throws a RangeError when a pivot is zero in this precision.
export function inverse(a, round = float64) {
  const n = a.length;
  const rows = a.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let c = 0; c < n; c++) {
    let p = c;
    for (let i = c + 1; i < n; i++) if (Math.abs(rows[i][c]) > Math.abs(rows[p][c])) p = i;
    const pivot = rows[p][c];
    if (!(Math.abs(pivot) > 0)) throw new RangeError("the matrix is singular in this precision");
    [rows[c], rows[p]] = [rows[p], rows[c]];
    rows[c] = rows[c].map((x) => round(x / pivot));
    for (let i = 0; i < n; i++) {
      if (i === c) continue;
      const factor = rows[i][c];
      rows[i] = rows[i].map((x, j) => round(x - round(factor * rows[c][j])));
    }
  }
  return rows.map((row) => row.slice(n));
}

// Condition number of a 2 x 2 matrix in the 2-norm; Infinity when it is singular.
export function cond2([[a, b], [c, d]]) {
  const largest = (Math.hypot(a + d, b - c) + Math.hypot(a - d, b + c)) / 2;
  return (largest * largest) / Math.abs(a * d - b * c);
}

// Row-wise softmax. `mask` (booleans, optional) says which entries take part; a row with none becomes zeros.
export function softmaxRows(scores, mask = null, round = float64) {
  return scores.map((row, i) => {
    const kept = row.map((_, j) => !mask || mask[i][j]);
    const top = Math.max(...row.filter((_, j) => kept[j]));
    const e = row.map((x, j) => (kept[j] ? round(Math.exp(round(x - top))) : 0));
    const sum = e.reduce((s, x) => round(s + x));
    return e.map((x) => (sum > 0 || sum !== sum ? round(x / sum) : 0));
  });
}

export function scores(q, k, round = float64) {
  const root = round(Math.sqrt(k[0].length));
  return map((x) => round(x / root), matmul(q, transpose(k), round));
}

// One head of attention from its three products: the score matrix, the attention map, the output.
export function attention(q, k, v, mask = null, round = float64) {
  const s = scores(q, k, round);
  const pattern = softmaxRows(s, mask, round);
  return { scores: s, pattern, output: matmul(pattern, v, round) };
}
