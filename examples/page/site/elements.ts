/// <reference lib="dom" />
/** Access to the elements of the page. */

/** The element with this id, which is in the page. */
export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** Shows a text, if it is another one: nothing is to be read aloud twice. */
export function show(id: string, text: string): void {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}
