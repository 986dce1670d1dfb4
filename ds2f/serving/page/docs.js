// The page at /docs: the OpenAPI document of the server for people.

import { byId, element } from "./dom.js";

/** A list of terms, each with its meaning. */
function list(rows) {
  return element(
    "dl",
    {},
    ...rows.flatMap(([term, meaning]) => [element("dt", {}, element("code", {}, term)), element("dd", {}, meaning)]),
  );
}

function fieldsOf({ properties = {}, required = [] }) {
  return Object.entries(properties).map(([name, schema]) => {
    const kind = `${kindOf(schema)}${required.includes(name) ? ", required" : ""}`;
    return [name, [kind, schema.description].filter(Boolean).join(". ")];
  });
}

/** The values of a field, for people. */
function kindOf({ type = "", format, enum: values, items, default: usual, minimum, maximum }) {
  if (items) return `Any of: ${kindOf(items)}`;
  const kind = values?.join(", ") ?? (format === "binary" ? "file" : type);
  const range = minimum === undefined ? "" : ` from ${minimum} to ${maximum}`;
  return `${kind}${range}${usual === undefined ? "" : `; default: ${usual}`}`;
}

function operation(path, method, { summary = "", requestBody, responses = {} }) {
  const title = element("summary", {}, element("code", {}, `${method.toUpperCase()} ${path}`), ` ${summary}`);
  const bodies = Object.entries(requestBody?.content ?? {}).flatMap(([kind, { schema }]) => [
    element("h3", {}, `Body: ${kind}`),
    list(fieldsOf(schema)),
  ]);
  const answers = Object.entries(responses).map(([status, { description }]) => [status, description]);
  return element("details", {}, title, ...bodies, element("h3", {}, "Answers"), list(answers));
}

async function show() {
  const { paths } = await (await fetch(new URL("openapi.json", document.baseURI))).json();
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, content]) => operation(path, method, content)),
  );
  byId("operations").replaceChildren(...operations);
}

show().catch(() => {
  byId("operations").textContent = "The document cannot be read. Reload the page.";
});
