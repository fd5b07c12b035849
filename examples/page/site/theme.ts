/// <reference lib="dom" />
/** The colours of the style sheet, for what is drawn on a canvas. */

const DARK = matchMedia("(prefers-color-scheme: dark)");
let colours = new Map<string, string>();
DARK.addEventListener("change", () => colours = new Map());

/** Calls a function when the colours have changed. */
export function onColourChange(listener: () => void): void {
  DARK.addEventListener("change", listener);
}

/** The value of a custom property, such as `"accepted"`. */
export function colour(name: string): string {
  const known = colours.get(name);
  if (known !== undefined) return known;
  const style = getComputedStyle(document.documentElement);
  const value = style.getPropertyValue(`--${name}`).trim();
  colours.set(name, value);
  return value;
}

/** The font of labels on a canvas. */
export const FONT_FAMILY = "system-ui, sans-serif";
export const FONT = `12px ${FONT_FAMILY}`;
