/**
 * Fingers and wheels on a plot.
 *
 * One finger: sideways it pans; a tap reads values, and so does a finger that has rested before it moves. Up and down is
 *     the page's.
 * Two fingers: they zoom, and what is under each of them stays there; the page itself stays as it is.
 * Wheel: with Ctrl it zooms, sideways it pans.
 */

export interface GestureListener {
  range(): [number, number];
  /** Shows a part of the axis for as long as fingers are on the plot; null: what was shown before. */
  previewed(range: [number, number] | null): void;
  zoomed(range: [number, number]): void;
  /** In CSS pixels of the window; null: nothing is pointed at. */
  pointed(left: number | null, top: number): void;
}

/** In CSS pixels: a finger that has moved less is at rest. */
const STILL = 8;
/** Milliseconds after which a finger at rest reads. */
const HOLD = 350;
/** Of the width: fingers that are closer say nothing of a zoom. */
const CLOSEST = 0.02;

/** Listens on an element; returns what ends it. */
export function followFingers(target: HTMLElement, listener: GestureListener): () => void {
  const fingers = new Fingers(target, listener);
  const wheel = new Wheel(target, listener);
  return () => {
    fingers.rest();
    wheel.rest();
  };
}

/** Returns where a place of the window is, as a share of an element's width. */
function shareOf(target: HTMLElement, x: number): number {
  const box = target.getBoundingClientRect();
  return (x - box.left) / (box.width || 1);
}

class Fingers {
  /** What they do; "none" from the first that goes to the last, too. */
  private does: "none" | "waits" | "reads" | "pans" | "zooms" = "none";
  /** Where the first was put down. */
  private from = { x: 0, y: 0 };
  /** Of the axis: what was shown at first, and where the fingers were on it. */
  private grip = { low: 0, high: 1, a: 0, b: 0 };
  private shown: [number, number] | null = null;
  private timer = 0;

  constructor(
    private readonly target: HTMLElement,
    private readonly listener: GestureListener,
  ) {
    const active = { passive: false };
    target.addEventListener("touchstart", (event) => this.began(event), active);
    target.addEventListener("touchmove", (event) => this.moved(event), active);
    target.addEventListener("touchend", (event) => this.ended(event));
    target.addEventListener("touchcancel", () => this.cancelled());
  }

  rest(): void {
    clearTimeout(this.timer);
  }

  private began(event: TouchEvent): void {
    const [first, second] = [event.targetTouches[0], event.targetTouches[1]];
    this.rest();
    if (!first) return;
    if (second) {
      event.preventDefault(); // else the page would be zoomed
      this.take(first.clientX, second.clientX);
      this.does = "zooms";
      this.listener.pointed(null, 0);
      return;
    }
    this.does = "waits";
    this.from = { x: first.clientX, y: first.clientY };
    this.timer = window.setTimeout(() => {
      this.does = "reads";
      this.listener.pointed(this.from.x, this.from.y);
    }, HOLD);
  }

  private moved(event: TouchEvent): void {
    const [first, second] = [event.targetTouches[0], event.targetTouches[1]];
    if (!first) return;
    if (this.does === "waits") this.decide(first);
    if (this.does === "none" || this.does === "waits") return;
    if (event.cancelable) event.preventDefault();
    if (this.does === "reads") this.listener.pointed(first.clientX, first.clientY);
    else if (this.does === "pans") this.pan(first.clientX);
    else if (second) this.zoom(first.clientX, second.clientX);
  }

  /** Tells by its first way what a finger is about. */
  private decide(first: Touch): void {
    const [wide, high] = [Math.abs(first.clientX - this.from.x), Math.abs(first.clientY - this.from.y)];
    if (Math.max(wide, high) < STILL) return;
    this.rest();
    this.does = wide > high ? "pans" : "none";
    if (this.does === "none") return;
    this.take(first.clientX, first.clientX);
    this.listener.pointed(null, 0);
  }

  /** Remembers where fingers are on the axis. */
  private take(a: number, b: number): void {
    const [low, high] = this.listener.range();
    const at = (x: number) => low + shareOf(this.target, x) * (high - low);
    this.grip = { low, high, a: at(a), b: at(b) };
  }

  private pan(x: number): void {
    const { low, high, a } = this.grip;
    const by = a - (low + shareOf(this.target, x) * (high - low));
    this.preview([low + by, high + by]);
  }

  private zoom(x: number, y: number): void {
    const { a, b } = this.grip;
    const [u, v] = [shareOf(this.target, x), shareOf(this.target, y)];
    const size = (a - b) / (u - v);
    if (Math.abs(u - v) > CLOSEST && size > 0) this.preview([a - u * size, a - u * size + size]);
  }

  private preview(range: [number, number]): void {
    this.shown = range;
    this.listener.previewed(range);
  }

  private ended(event: TouchEvent): void {
    this.rest();
    if (this.does === "waits") this.listener.pointed(this.from.x, this.from.y);
    if (this.does === "zooms" && event.targetTouches.length > 1) return;
    this.does = "none"; // a finger that is left of two moves nothing
    const { shown } = this;
    this.shown = null;
    if (shown) this.listener.zoomed(shown);
  }

  private cancelled(): void {
    this.rest();
    this.does = "none";
    if (this.shown) this.listener.previewed(null);
    this.shown = null;
  }
}

class Wheel {
  private turned: [number, number] | null = null;
  private timer = 0;

  constructor(
    private readonly target: HTMLElement,
    private readonly listener: GestureListener,
  ) {
    target.addEventListener("wheel", (event) => this.turn(event), { passive: false });
  }

  rest(): void {
    clearTimeout(this.timer);
  }

  private turn(event: WheelEvent): void {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return;
    event.preventDefault();
    const [low, high] = this.turned ?? this.listener.range();
    const size = high - low;
    if (sideways) {
      const by = (event.deltaX / (this.target.clientWidth || 1)) * size;
      this.turned = [low + by, high + by];
    } else {
      const at = low + shareOf(this.target, event.clientX) * size;
      const factor = Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200)));
      this.turned = [at - (at - low) * factor, at + (high - at) * factor];
    }
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      if (this.turned) this.listener.zoomed(this.turned);
      this.turned = null;
    }, 60);
  }
}
