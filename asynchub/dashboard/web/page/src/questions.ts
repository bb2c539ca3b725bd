/**
 * When the source is asked for what the page shows: as soon as that is another thing, and never twice for the same.
 *
 * At once: before the page draws, so that the answer is made meanwhile.
 * Several changes: of those that come together the last is asked for; of those that come one after another, one each
 *     `ASK_AFTER` milliseconds.
 */

import { curvesWanted, type Look } from "./asking";
import type { Source } from "./model";
import type { Message } from "./wire";

const ASK_AFTER = 25;

export interface Questioner {
  readonly source: Source | undefined;
  readonly look: Look;
}

export class Questions {
  private isSoon = false;
  private asked = "";
  private askedAt = Number.NEGATIVE_INFINITY;
  private number = 0;
  private keys: string[] = [];
  private answered = false;

  /** `same`: is called when there is nothing new to ask for. */
  constructor(
    private readonly questioner: Questioner,
    private readonly same: () => void,
  ) {}

  /** Whether the curves have come that were asked for last. */
  get isAnswered(): boolean {
    return this.answered;
  }

  /** Asks for what is shown by then. */
  soon(): void {
    if (this.isSoon) return;
    this.isSoon = true;
    const wait = ASK_AFTER - (performance.now() - this.askedAt);
    if (wait > 0) window.setTimeout(() => this.ask(), wait);
    else queueMicrotask(() => this.ask()); // not a timer, before which a frame may be drawn
  }

  /** Has the whole sent anew: what is here does not fit to what came. */
  again(): void {
    this.asked = "";
    this.soon();
  }

  /** Takes note of an answer; returns the keys of its curves if it is the one to the last question, else null. */
  take(message: Message): string[] | null {
    const isLast = message.n === this.number;
    this.answered = isLast || !this.questioner.source?.live;
    return isLast ? this.keys : null;
  }

  private ask(): void {
    this.isSoon = false;
    const { source } = this.questioner;
    if (!source) return; // nothing is known yet of what is shown
    const { look } = this.questioner;
    const wanted = { filter: look.state.filter, screen: look.main || null, curves: curvesWanted(look) };
    const text = JSON.stringify(wanted);
    if (text === this.asked) {
      this.same();
      return;
    }
    this.asked = text;
    this.askedAt = performance.now();
    this.answered = !wanted.curves;
    this.keys = wanted.curves?.keys ?? [];
    this.number = source.want(wanted);
  }
}
