/** Numbers and times of what the pointer is on and of axes; all other words come from the server. */

const STEPS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Returns a number of 4 significant digits, as `asynchub.subscribers.display.format_number` writes it. */
export function number(value: number): string {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "+inf" : "-inf";
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-3 && size < 9999.5)) return value === 0 ? "0.000" : value.toPrecision(4);
  if (size >= 9999.5 && size < 1e7) return value.toFixed(0);
  const [mantissa, exponent] = value.toExponential(3).split("e");
  const power = Number(exponent);
  return `${mantissa!.replace(/\.?0+$/, "")}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** Returns a whole number with separators. */
export function whole(value: number): string {
  return STEPS.format(value);
}

/** Returns seconds since the epoch as a local time. */
export function moment(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return "–";
  return `${date.toLocaleDateString("sv")} ${date.toLocaleTimeString("sv")}`;
}

/** Returns seconds as a duration, e.g. `1:05:00`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const sign = seconds < 0 ? "-" : "";
  const size = Math.abs(seconds);
  if (size < 60) return size === 0 ? "0" : `${sign}${Number(size.toPrecision(3))} s`;
  const [hours, minutes, rest] = [Math.floor(size / 3600), Math.floor(size / 60) % 60, Math.floor(size) % 60];
  const pad = (part: number) => String(part).padStart(2, "0");
  return `${sign}${hours ? `${whole(hours)}:${pad(minutes)}` : minutes}:${pad(rest)}`;
}

/** Returns a tick of an axis of steps: `250k`, `1.5M`. */
export function compact(value: number, apart: number): string {
  for (const [size, unit] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (Math.abs(value) >= size * 10 || (Math.abs(value) >= size && apart >= size / 10)) {
      const digits = Math.max(0, Math.min(4, Math.ceil(-Math.log10(apart / size) - 1e-9)));
      return `${Number((value / size).toFixed(digits))}${unit}`;
    }
  }
  return String(Number(value.toPrecision(12)));
}

/** Returns ticks of a y axis, all with as many digits as tell them apart. */
export function ticks(values: number[]): string[] {
  const finite = values.filter((value) => Number.isFinite(value));
  const largest = Math.max(...finite.map(Math.abs), 0);
  const apart = finite.length > 1 ? Math.abs(finite[1]! - finite[0]!) : largest;
  if (largest !== 0 && (largest >= 1e6 || largest < 1e-3)) {
    const digits = Math.max(0, Math.min(6, Math.floor(Math.log10(largest)) - Math.floor(Math.log10(apart || largest))));
    return values.map((value) => (value === 0 ? "0" : value.toExponential(digits).replace("e+", "e")));
  }
  const digits = apart > 0 ? Math.max(0, Math.min(12, Math.ceil(-Math.log10(apart) - 1e-9))) : 3;
  return values.map((value) => value.toFixed(digits));
}
