/** The strokes of a curve; of a group of runs pale ones for all of its values, and dark ones for the means of its runs. */

import { drawStrokes, type Look, type Scale } from "./brush";
import type { Series } from "./wire";

const [PALE, DARK] = [0.18, 0.3];

export function drawReach(ctx: CanvasRenderingContext2D, series: Series, scale: Scale, look: Look): void {
  const { lower, upper } = series;
  const isGroup = lower !== null && upper !== null;
  drawStrokes(ctx, series, scale, isGroup ? { ...look, strokes: PALE } : look);
  if (isGroup) drawStrokes(ctx, { ...series, low: lower, high: upper }, scale, { ...look, strokes: DARK });
}
