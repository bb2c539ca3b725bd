/**
 * Elements: made of text alone, and changed in place.
 *
 * Text: what others wrote comes in through `textContent` and attributes that are not code; there is no way here to put
 *     in HTML.
 * In place: `morph` changes only what differs, so that focus, selection and scrolling stay when news comes.
 * Clicks: an element names its action in `data-do`; one listener for the page finds it.
 */

export type Child = Node | string | null | undefined | false;
export type Attributes = Record<string, string | number | boolean | null | undefined>;

const SVG = "http://www.w3.org/2000/svg";
const CODE = /^(on|style$|srcdoc$|href$|src$|action$|formaction$|xlink)/i;

/** Returns an element; an attribute that is null, undefined or false is left out. */
export function h(tag: string, attributes: Attributes = {}, ...children: Child[]): HTMLElement {
  return filled(document.createElement(tag), attributes, children);
}

/** Returns an element of a drawing. */
export function svg(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled<E extends Element>(element: E, attributes: Attributes, children: Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (CODE.test(name)) throw new Error(`${name} may not be set from data`);
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Makes the children of an element the given ones, changing as little as possible. */
export function morph(parent: Element, children: Child[]): void {
  const wanted = document.createDocumentFragment();
  wanted.append(
    ...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false),
  );
  morphNodes(parent, wanted);
}

function morphNodes(parent: Node, wanted: Node): void {
  let old = parent.firstChild;
  let next = wanted.firstChild;
  while (next) {
    const after = next.nextSibling;
    if (old && sameKind(old, next)) {
      morphNode(old, next);
      old = old.nextSibling;
    } else {
      const later = old && keyOf(next) ? following(old, keyOf(next)) : null;
      if (later) {
        parent.insertBefore(later, old);
        morphNode(later, next);
      } else {
        parent.insertBefore(next, old);
      }
    }
    next = after;
  }
  while (old) {
    const after: ChildNode | null = old.nextSibling;
    parent.removeChild(old);
    old = after;
  }
}

function keyOf(node: Node): string {
  return node instanceof Element ? (node.getAttribute("data-id") ?? "") : "";
}

function following(node: Node, key: string): Node | null {
  for (let next = node.nextSibling; next; next = next.nextSibling) if (keyOf(next) === key) return next;
  return null;
}

function sameKind(old: Node, next: Node): boolean {
  return old.nodeType === next.nodeType && old.nodeName === next.nodeName && keyOf(old) === keyOf(next);
}

function morphNode(old: Node, next: Node): void {
  if (!(old instanceof Element) || !(next instanceof Element)) {
    if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // whether the reader has opened it is the reader's
    if (!next.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes])
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  morphNodes(old, next);
}

/** Characters that are not seen, but change how others are: controls, and those that turn the direction of writing. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

/** Returns a text of others as it may be shown: in one line, cut to a length; what was cut off is marked. */
export function cut(text: string, most = 300): string {
  const short = text.length > most ? `${text.slice(0, most)}…` : text;
  return short.replace(UNSEEN, (one) => (one === "\n" || one === "\t" ? " " : "\ufffd"));
}

/** Returns the element with an id; throws an `Error` if there is none. */
export function byId<E extends HTMLElement = HTMLElement>(id: string): E {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as E;
}
