// Numbers as people read them, the places of ticks, and running means.

function value(number) {
  if (number === null || number === undefined) return 'n/a';
  if (Number.isInteger(number) && Math.abs(number) < 1e15) return number.toLocaleString('en-US');
  const size = Math.abs(number);
  if (size < 1e-4 || size >= 1e6) return number.toExponential(3);
  return number.toPrecision(4).includes('e') ? number.toFixed(0) : number.toPrecision(4);
}

function duration(seconds) {
  if (seconds < 60) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 3600) return `${Number((seconds / 60).toFixed(1))} min`;
  if (seconds < 48 * 3600) return `${Number((seconds / 3600).toFixed(2))} h`;
  return `${Number((seconds / 86400).toFixed(2))} d`;
}

function short(number) {
  const size = Math.abs(number);
  if (size >= 1e9) return `${Number((number / 1e9).toPrecision(4))}G`;
  if (size >= 1e6) return `${Number((number / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((number / 1e3).toPrecision(4))}k`;
  if (size && size < 1e-3) return number.toExponential(2).replace(/\.?0+e/, 'e');
  return String(Number(number.toPrecision(4)));
}

function ticks(low, high, most, logarithmic) {
  if (logarithmic) {
    const decades = Math.log10(high / low);
    const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] : decades > 0.5 ? [1, 2, 5] : null;
    if (factors) {
      const every = Math.max(1, Math.ceil(decades / most));
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        if (((power % every) + every) % every) continue;
        for (const factor of factors) {
          const tick = factor * 10 ** power;
          if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
        }
      }
      if (found.length > 1) return found;
    }
  }
  const raw = (high - low) / most;
  const base = 10 ** Math.floor(Math.log10(raw));
  const gap = base * [1, 2, 2.5, 5, 10].find((factor) => factor * base >= raw * 0.999);
  const found = [];
  for (let n = Math.ceil(low / gap - 1e-9); n * gap <= high + gap * 1e-9 && found.length < 50; n++) found.push(n * gap);
  return found;
}

function timeTicks(low, high, most) {
  const unit = high < 120 ? 1 : high < 7200 ? 60 : high < 172800 ? 3600 : 86400;
  return ticks(low / unit, high / unit, most, false).map((tick) => tick * unit);
}

// The place in ascending `numbers` that is nearest to a number.
function nearest(numbers, number) {
  let low = 0;
  let high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < number) low = middle;
    else high = middle;
  }
  return Math.abs(numbers[low] - number) <= Math.abs(numbers[high] - number) ? low : high;
}

// Running mean with a weight for the past, as if it had begun with the values.
function smooth(values, weight) {
  let mean = 0;
  let trust = 1;
  return values.map((number) => {
    mean = weight * mean + (1 - weight) * number;
    trust *= weight;
    return mean / (1 - trust);
  });
}
