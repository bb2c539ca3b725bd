/** Fingers and wheels on a plot: one finger reads values, two zoom; a wheel with Ctrl zooms, sideways it pans. */

export interface GestureListener {
  range(): [number, number];
  zoomed(range: [number, number]): void;
  /** In CSS pixels of the window; null: the finger is gone. */
  pointed(left: number | null, top: number): void;
}

/** Listens on an element; returns what ends it. Up and down is left to the page. */
export function followFingers(target: HTMLElement, listener: GestureListener): () => void {
  let pinch: { low: number; high: number; a: number; b: number } | null = null;
  let wheeled: [number, number] | null = null;
  let timer = 0;
  const place = (x: number) => {
    const box = target.getBoundingClientRect();
    return (x - box.left) / (box.width || 1);
  };
  const touched = (event: TouchEvent) => {
    const [first, second] = [event.touches[0], event.touches[1]];
    if (first && second) {
      const [low, high] = listener.range();
      const size = high - low;
      pinch = { low, high, a: low + place(first.clientX) * size, b: low + place(second.clientX) * size };
      event.preventDefault();
    } else if (first) {
      listener.pointed(first.clientX, first.clientY);
    }
  };
  const moved = (event: TouchEvent) => {
    const [first, second] = [event.touches[0], event.touches[1]];
    if (pinch && first && second) {
      const [u, v] = [place(first.clientX), place(second.clientX)];
      if (Math.abs(u - v) > 0.02) {
        const size = (pinch.a - pinch.b) / (u - v);
        if (size > 0) listener.zoomed([pinch.a - u * size, pinch.a - u * size + size]);
      }
      event.preventDefault();
    } else if (first && !pinch) {
      listener.pointed(first.clientX, first.clientY);
    }
  };
  const ended = (event: TouchEvent) => {
    if (!event.touches.length) pinch = null;
  };
  const turned = (event: WheelEvent) => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return;
    event.preventDefault();
    const [low, high] = wheeled ?? listener.range();
    const size = high - low;
    if (sideways) {
      const by = (event.deltaX / (target.clientWidth || 1)) * size;
      wheeled = [low + by, high + by];
    } else {
      const at = low + place(event.clientX) * size;
      const factor = Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200)));
      wheeled = [at - (at - low) * factor, at + (high - at) * factor];
    }
    clearTimeout(timer);
    timer = window.setTimeout(() => {
      if (wheeled) listener.zoomed(wheeled);
      wheeled = null;
    }, 60);
  };
  const passive = { passive: false };
  target.addEventListener("touchstart", touched, passive);
  target.addEventListener("touchmove", moved, passive);
  target.addEventListener("touchend", ended);
  target.addEventListener("wheel", turned, passive);
  return () => clearTimeout(timer);
}
