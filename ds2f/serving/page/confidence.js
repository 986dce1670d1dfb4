// Classes of confidence. Each has a shade and an underline, so that colour alone carries no meaning.

import { element } from "./dom.js";

const CLASSES = [
  { name: "high", from: 0.9, label: "90 % or more" },
  { name: "good", from: 0.7, label: "70 to 90 %" },
  { name: "unsure", from: 0.5, label: "50 to 70 %" },
  { name: "low", from: 0, label: "below 50 %" },
];

/** The name of the class of a confidence, 0 to 1. */
export const classOf = (confidence) => CLASSES.find(({ from }) => confidence >= from)?.name ?? "low";

/** Properties of an element that is shaded. */
export const shade = (name) => ({ className: "word-text", dataset: { confidence: name } });

/** A confidence as text. */
export const percent = (confidence) => `${Math.round(100 * confidence)} %`;

/** Fills a list with the classes. */
export function fillLegend(list) {
  list.replaceChildren(
    ...CLASSES.map(({ name, label }) =>
      element(
        "li",
        {},
        element("span", { ...shade(name), attributes: { "aria-hidden": "true" } }, "word"),
        ` ${label}`,
      ),
    ),
  );
}
