/**
 * The line to the server: requests with the token, and the live socket, which comes back by itself.
 *
 * Token: from the address's fragment, kept for this tab alone (`sessionStorage`) and taken out of the address.
 * Live: what is wanted is sent whole at each change and after each new connection, and the server then sends the whole,
 *     so that nothing is missing after it was away.
 * Own origin: no other address is ever asked.
 */

import type { CurvesWanted, RunList, Screen } from "./contract";
import { decode, type Message } from "./wire";

/** What the server answered instead of what was asked for, in words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text);
  }
}

export interface Wanted {
  rows: boolean;
  filter: string;
  screen: string | null;
  curves: CurvesWanted | null;
}

export interface Listener {
  rows(list: RunList): void;
  screen(screen: Screen): void;
  curves(message: Message): void;
  /** Something to say, in words; "" when all is well. */
  trouble(text: string): void;
  /** The token is missing or wrong. */
  locked(text: string): void;
}

const KEPT = "asynchub-token";
const FIRST_WAIT = 0.5;
const LONGEST_WAIT = 8;
const ANSWER_SECONDS = 60;

export class Link {
  private token = "";
  private socket: WebSocket | null = null;
  private wanted: Wanted | null = null;
  private counter = 0;
  private wait = FIRST_WAIT;
  private timer = 0;
  private stopped = false;

  constructor(private readonly listener: Listener) {
    this.token = takeToken() || kept();
    addEventListener("hashchange", () => {
      const token = takeToken();
      if (token) this.unlock(token); // any other address is of what is shown: the line stays as it is
    });
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.hurry();
    });
  }

  /** Begins, or begins again with another token. */
  unlock(token: string): void {
    this.token = token
      .trim()
      .replace(/^.*#t=/, "")
      .replace(/&.*$/, "");
    keep(this.token);
    this.wait = FIRST_WAIT;
    this.stopped = false;
    this.socket?.close();
    this.socket = null;
    this.connect();
  }

  start(): void {
    this.connect();
  }

  /** Says what is to come from now on; returns the number that live curves carry for it. */
  want(wanted: Wanted): number {
    this.wanted = wanted;
    this.counter += 1;
    this.send();
    return this.counter;
  }

  async get<T>(path: string, query: Record<string, string | number> | string[][] = {}): Promise<T> {
    const pairs = Array.isArray(query) ? query : Object.entries(query).map(([name, value]) => [name, String(value)]);
    const answer = await this.fetch(`${path}?${new URLSearchParams(pairs)}`, { method: "GET" });
    return (await answer.json()) as T;
  }

  async post<T>(path: string, body: unknown): Promise<T> {
    return (await (await this.fetch(path, asJson(body))).json()) as T;
  }

  async postForCurves(wanted: CurvesWanted): Promise<Message> {
    return decode(await (await this.fetch("api/curves", asJson(wanted))).arrayBuffer());
  }

  async getFile(path: string, query: [string, string][]): Promise<Blob> {
    return (await this.fetch(`${path}?${new URLSearchParams(query)}`, { method: "GET" })).blob();
  }

  private async fetch(path: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("Authorization", `Bearer ${this.token}`);
    const signal = AbortSignal.timeout(ANSWER_SECONDS * 1000);
    const answer = await fetch(new URL(path, document.baseURI), { ...init, headers, signal, credentials: "omit" });
    if (answer.ok) return answer;
    throw new Refused(answer.status, await wordsOf(answer));
  }

  private async connect(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = 0;
    if (this.socket || this.stopped) return;
    if (!this.token) {
      this.stopped = true;
      this.listener.locked("");
      return;
    }
    let ticket: string;
    try {
      ticket = (await this.post<{ ticket: string }>("api/ticket", {})).ticket;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        this.stopped = true;
        this.listener.locked(
          "The server does not know this token: it has been started again, or the address is of another one.",
        );
      } else {
        this.again(error instanceof Refused ? error.message : "connection lost");
      }
      return;
    }
    const address = new URL("api/live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("ticket", ticket);
    address.hash = "";
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.wait = FIRST_WAIT;
      this.listener.trouble("");
      this.send();
    };
    socket.onmessage = (event) => socket === this.socket && this.hear(event.data);
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.again(event.reason || "connection lost");
    };
  }

  private hear(data: ArrayBuffer | string): void {
    try {
      if (typeof data !== "string") {
        this.listener.curves(decode(data));
        return;
      }
      const news = JSON.parse(data);
      if (news.type === "rows") this.listener.rows(news as RunList);
      else if (news.type === "screen") this.listener.screen(news.screen as Screen);
      else if (news.type === "error") this.listener.trouble(String(news.text));
    } catch (error) {
      console.warn("asynchub: a message that could not be read:", error);
      this.socket?.close(); // the next connection brings the whole
    }
  }

  private again(why: string): void {
    const wait = this.wait;
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    this.listener.trouble(`${why}, trying again in ${wait < 1 ? "a moment" : `${wait} s`}`);
    this.timer = window.setTimeout(() => this.connect(), wait * 1000);
  }

  private hurry(): void {
    if (this.timer) this.connect();
  }

  private send(): void {
    if (this.wanted && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ ...this.wanted, n: this.counter }));
    }
  }
}

function asJson(body: unknown): RequestInit {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}

async function wordsOf(answer: Response): Promise<string> {
  const text = await answer.text();
  try {
    const said = JSON.parse(text);
    return String(said.error ?? said.text ?? said.detail ?? text);
  } catch {
    return text || `the server answered ${answer.status}`; // it is no JSON: it is said as it stands
  }
}

/** Returns the token in the address, after taking it out of there and keeping it for this tab; "" if there is none. */
function takeToken(): string {
  const said = new URLSearchParams(location.hash.replace(/^#/, ""));
  const token = said.get("t");
  if (token === null) return "";
  said.delete("t");
  const rest = said.toString();
  history.replaceState(null, "", `${location.pathname}${location.search}${rest ? `#${rest}` : ""}`);
  keep(token);
  return token;
}

function kept(): string {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // storage is switched off: the token lasts until the next reload
  }
}

function keep(token: string): void {
  try {
    sessionStorage.setItem(KEPT, token);
  } catch {
    return; // as above
  }
}
