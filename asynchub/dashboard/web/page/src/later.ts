/** The rest of the page: what is not on its first screen is in a file of its own, fetched when it is first opened. */

import type * as Rest from "./more";

export type More = typeof Rest;

declare global {
  var asynchubMore: More | undefined;
}

let coming: Promise<More> | null = null;

/** Returns the rest of the page; raises an `Error` if it cannot be had, and tries again the next time. */
export function later(): Promise<More> {
  if (globalThis.asynchubMore) return Promise.resolve(globalThis.asynchubMore);
  coming ??= Promise.all([fetched("script", "more.js"), fetched("link", "more.css")]).then(
    () => globalThis.asynchubMore!,
    (error) => {
      coming = null;
      throw error;
    },
  );
  return coming;
}

function fetched(kind: "script" | "link", name: string): Promise<void> {
  const one = Object.assign(document.createElement(kind), kind === "link" ? { rel: "stylesheet", href: name } : { src: name });
  return new Promise((done, failed) => {
    one.onload = () => done();
    one.onerror = () => {
      one.remove();
      failed(new Error("The rest of the page did not come: is the server still there?"));
    };
    document.head.append(one);
  });
}
