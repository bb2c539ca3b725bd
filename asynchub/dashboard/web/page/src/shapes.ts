/** Shapes that are drawn in more than one place. */

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
