/** The table of docs/cri-fields.md. */
import { join } from "node:path";
import type { Handler, Row } from "./row.ts";

export const page: string = join(import.meta.dirname, "../../docs/cri-fields.md");
const [begin, end] = ["<!-- made by tests/cri-field-table.test.ts -->", "<!-- end -->"];

const cell = ({ outcome, note }: Row): string => `**${outcome}**: ${note}`;

/** `text` with the table of `fields` as they were seen. @throws when a field was not seen on a handler */
export function withTable(
  text: string,
  fields: readonly string[],
  seen: Readonly<Record<Handler, ReadonlyMap<string, Row>>>,
): string {
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${page}: there is no ${begin} ... ${end}`);
  const lines: string[] = [];
  let message = "";
  for (const field of fields) {
    const [host, guest] = [seen.crun.get(field), seen.firecracker.get(field)];
    if (host === undefined || guest === undefined || seen.runc.get(field) !== host)
      throw new Error(`${field} was not seen on each handler`);
    const [root = "", ...names] = field.split(".");
    if (root !== message)
      lines.push("", `## ${root}`, "", "| field | crun, runc | firecracker |", "|---|---|---|");
    message = root;
    const same = host === guest ? "the same" : cell(guest);
    lines.push(`| \`${names.join(".")}\` | ${cell(host)} | ${same} |`);
  }
  return `${text.slice(0, from)}${[begin, ...lines, end].join("\n")}${text.slice(to + end.length)}`;
}
