/** Shapes that are drawn in more than one place. */

import { svg } from "./dom";

/** In CSS pixels: coarse enough to be told apart in a line that is dense with values. */
export const DASHES = [[], [8, 4], [3, 3], [9, 3, 3, 3]];

/** Returns a short piece of a run's line. */
export function swatch(colour: string, dash: number): SVGElement {
  const line = svg("line", {
    x1: 1,
    x2: 21,
    y1: 6,
    y2: 6,
    stroke: colour,
    "stroke-width": 3,
    "stroke-dasharray": DASHES[dash % DASHES.length]!.join(" ") || null,
  });
  return svg("svg", { width: 22, height: 12, viewBox: "0 0 22 12", class: "swatch", "aria-hidden": "true" }, line);
}

/** A triangle whose tip is at a place and which is as high as given, downwards if that is positive. */
export function triangle(ctx: CanvasRenderingContext2D, x: number, y: number, height: number, solid: boolean): void {
  const half = Math.abs(height) * 0.62;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(x - half, y + height);
  ctx.lineTo(x + half, y + height);
  ctx.closePath();
  if (solid) ctx.fill();
  else ctx.stroke();
}
