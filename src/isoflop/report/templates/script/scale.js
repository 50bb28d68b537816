// Axes as src/isoflop/report/scale.py has them: the same places, the same ticks, the same labels.
const MINUS = "\u2212", SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

function digits(value) {
  if (!value) return "0";
  const shown = Number(value.toPrecision(3));
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(shown))));
  return shown.toLocaleString("en-US", {minimumFractionDigits: decimals, maximumFractionDigits: decimals});
}

function withSuffix(value, scales, last, lastScale) {
  for (const [suffix, scale] of scales) if (Math.abs(value) < 999.5 * scale) return digits(value / scale) + suffix;
  return digits(value / lastScale) + last;
}

function count(value) {
  if (Math.abs(value) < 999.5) return String(Number(value.toPrecision(3)));
  return withSuffix(value, [["k", 1e3], ["M", 1e6], ["B", 1e9]], "T", 1e12);
}

const bytes = value => withSuffix(value, [["\u00a0kB", 1e3], ["\u00a0MB", 1e6], ["\u00a0GB", 1e9]], "\u00a0TB", 1e12);
const short = told => told.includes(".") ? told.replace(/\.?0+(?=\D*$)/, "") : told;
const scientific = value => value.toExponential(2).replace("+", "");

function plain(value) {
  const shown = Number(value.toPrecision(4));
  return (Math.abs(shown) >= 1e4 ? shown.toLocaleString("en-US") : String(shown)).replace("-", MINUS);
}

function powerOfTen(value) {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const raised = String(Number(exponent)).replace("-", "\u207b").replace(/\d/g, digit => SUPERSCRIPTS[digit]);
  return Number(mantissa) === 1 ? "10" + raised : Number(mantissa) + " \u00d7 10" + raised;
}

function signed(value) {
  const shown = Number(value.toPrecision(3));
  return shown ? (shown > 0 ? "+" : "") + String(shown).replace("-", MINUS) : "0";
}

// On an axis, and where a pointer asks.
const TICKS = {count: value => short(count(value)), flops: powerOfTen, loss: plain, plain, bytes: value => short(bytes(value)), signed};
const TOLD = {count, flops: scientific, loss: value => value.toFixed(3), plain, bytes, signed};

function place(scale, value, start, end) {
  const {low, high} = scale;
  const share = scale.log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return start + share * (end - start);
}

function unplace(scale, pixel, start, end) {
  const share = (pixel - start) / (end - start);
  return scale.log ? scale.low * Math.pow(scale.high / scale.low, share) : scale.low + share * (scale.high - scale.low);
}

function ticks(scale, most) {
  if (scale.labels === "none") return [];
  const label = TICKS[scale.labels], {low, high, base} = scale;
  const inside = value => value >= low * (1 - 1e-12) && value <= high * (1 + 1e-12);
  if (scale.log) {
    const first = Math.ceil(Math.log(low) / Math.log(base) - 1e-9), last = Math.floor(Math.log(high) / Math.log(base) + 1e-9);
    const powers = Array.from({length: Math.max(0, last - first + 1)}, (_, k) => first + k);
    if (powers.length >= 2) {
      const every = Math.ceil(powers.length / most), found = [];
      for (let k = first - 1; k <= last; k++) for (let m = 1; m < base; m++) {
        const value = m * Math.pow(base, k);
        const labelled = m === 1 && k >= first && (k - first) % every === 0;
        if (labelled || (every === 1 && (base === 10 || m === 1) && value >= low && value <= high)) found.push([value, labelled ? label(value) : ""]);
      }
      return found;
    }
    if (high / low > 4) {
      let found = [];
      for (const steps of [[1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
        if (found.length >= 3) break;
        found = [];
        for (let k = Math.floor(Math.log10(low)); k < Math.ceil(Math.log10(high)); k++)
          for (const m of steps) if (inside(m * 10 ** k)) found.push([m * 10 ** k, label(m * 10 ** k)]);
      }
      return found;
    }
  }
  return roundTicks(low, high, most, label);
}

function roundTicks(low, high, most, label) {
  const rough = (high - low) / most, scale = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 2.5, 5, 10].map(m => m * scale).find(one => one >= rough * 0.999);
  const values = [];
  for (let k = Math.ceil(low / step); k <= Math.floor(high / step); k++) values.push(Number((k * step).toPrecision(12)));
  const labels = values.map(label);
  if (!labels.every(one => /^[0-9]+(\.[0-9]+)?$/.test(one))) return values.map((value, i) => [value, labels[i]]);
  const decimals = Math.max(0, ...labels.map(one => (one.split(".")[1] || "").length));
  return values.map((value, i) => [value, Number(labels[i]).toFixed(decimals)]);
}
