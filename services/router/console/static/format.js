// Numbers and times as the page writes them.

export function count(value, word) {
  return `${value.toLocaleString("en")} ${word}${value === 1 ? "" : "s"}`;
}

export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 10) return String(Number(value.toFixed(1)));
  return Math.round(value).toLocaleString("en");
}

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)}%` : "–");

/** Seconds, in the unit that suits them. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  return `${Number(seconds.toPrecision(3))} s`;
}

export const clock = (ms) => new Date(ms).toTimeString().slice(0, 8);

/** [0, 1, 2, 5] is "0–2, 5". */
export function ranges(ids) {
  const parts = [];
  for (let i = 0; i < ids.length; ) {
    let j = i;
    while (j + 1 < ids.length && ids[j + 1] === ids[j] + 1) j++;
    parts.push(i === j ? `${ids[i]}` : `${ids[i]}–${ids[j]}`);
    i = j + 1;
  }
  return parts.join(", ");
}

const collator = new Intl.Collator("en", {numeric: true});
export const byName = (a, b) => collator.compare(a, b);
