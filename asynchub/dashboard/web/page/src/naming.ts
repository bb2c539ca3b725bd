/** Names of what may be asked of a run. */

import type { Steerable } from "./contract";
import { cut } from "./dom";

/** The name of what may be asked for, on its button. */
export function nameOf(one: Steerable): string {
  const names: Record<string, string> = {
    stop: "Stop run…",
    checkpoint: "Checkpoint…",
    pause: "Pause…",
    resume: "Resume…",
    skip: "Skip…",
    rollback: "Roll back…",
  };
  return names[one.word] ?? `Set ${cut(one.name, 24)}…`;
}
