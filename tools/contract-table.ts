/**
 * docs/firecracker-qemu.md, endpoint by endpoint, from what a run of the contract suite has seen (its report is the argument).
 * Fails when the page was another one: then the new one is there, to be looked at and committed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const page = join(import.meta.dirname, "../docs/firecracker-qemu.md");

const endpoints = [
  ...["GET /", "GET /version", "GET /vm/config", "PATCH /vm", "PUT /actions"],
  ...[
    "PUT /machine-config",
    "PATCH /machine-config",
    "GET /machine-config",
    "PUT /boot-source",
    "PUT /cpu-config",
  ],
  ...["PUT /drives/{id}", "PATCH /drives/{id}", "DELETE /drives/{id}"],
  ...["PUT /network-interfaces/{id}", "PATCH /network-interfaces/{id}", "DELETE /network-interfaces/{id}"],
  ...["PUT /pmem/{id}", "PATCH /pmem/{id}", "DELETE /pmem/{id}"],
  ...["PUT /vsock", "PUT /entropy", "PUT /serial", "PUT /logger", "PUT /metrics"],
  ...[
    "PUT /balloon",
    "GET /balloon",
    "PATCH /balloon",
    "GET /balloon/statistics",
    "PATCH /balloon/statistics",
  ],
  ...["PATCH /balloon/hinting/start", "GET /balloon/hinting/status", "PATCH /balloon/hinting/stop"],
  ...["PUT /hotplug/memory", "PATCH /hotplug/memory", "GET /hotplug/memory"],
  ...["PUT /mmds", "PATCH /mmds", "GET /mmds", "PUT /mmds/config"],
  ...["PUT /snapshot/create", "PUT /snapshot/load"],
];

type Note = { readonly send: string; readonly status: number; readonly text?: string };

function readNote(line: string): Note {
  const value: unknown = JSON.parse(line);
  if (typeof value !== "object" || value === null || !("send" in value) || !("status" in value))
    throw new Error(`not a line of the report: ${line}`);
  const text = "text" in value ? { text: String(value.text) } : {};
  return { send: String(value.send), status: Number(value.status), ...text };
}

const endpointOf = ({ send }: Note): string =>
  send.replace(/^(\w+ \/(drives|network-interfaces|pmem))\/.*/, "$1/{id}");

/** `what`: why, from a refusal by name */
function reasonOf(text: string): string {
  const said = /"fault_message":"(.*?)(?: is)? not supported by firecracker-qemu: (.*?)\.?"\}/.exec(text);
  return said === null ? text : `${said[1]}: ${said[2]}`;
}

const notes = readFileSync(process.argv[2] ?? "", "utf8")
  .trim()
  .split("\n")
  .map(readNote);
const rows = endpoints.map((endpoint) => {
  const own = notes.filter((note) => endpointOf(note) === endpoint);
  const works = own.some(({ status }) => status < 300);
  const refuses = own.some(({ status, text }) => status >= 400 && text === undefined);
  const missing = [
    ...new Set(own.flatMap(({ text }) => (text === undefined ? [] : [reasonOf(text)]))),
  ].sort();
  return `| \`${endpoint}\` | ${works ? "yes" : "no"} | ${refuses ? "yes" : ""} | ${missing.join("; ")} |`;
});

const text = `# firecracker-qemu beside Firecracker

\`firecracker-qemu\` answers Firecracker 1.17's API and boots the same guests on QEMU's microvm machine. The table is written by \`make contract\`, from what it has
seen the program do; every row of its tests is true of Firecracker 1.17 as well, except for the last column, which \`firecracker-qemu\` refuses with 400, by name and with the reason.

- *works*: a request was accepted and did what Firecracker's does. Without \`--enable-pci\` no device can be deleted, there as here.
- *refuses*: wrong bodies, values and states were refused with the same status and key, naming the same field, value or state.

| request | works | refuses | not supported, and why |
|---|---|---|---|
${rows.join("\n")}

Below the JSON it reads requests as Firecracker's server does (lines of 1024 bytes, bodies of 51 200 by default, ten connections, one request at a time), see
\`tests/contract/http.test.ts\`. The command line is Firecracker's, but \`--enable-pci\` and \`--seccomp-filter\` are refused: the machine has no PCI, and QEMU a filter of its own.
`;

let before = "";
try {
  before = readFileSync(page, "utf8");
} catch {
  // The first time.
}
writeFileSync(page, text);
if (before !== text) {
  console.error(
    "docs/firecracker-qemu.md was not what this run has seen; it is now: look at it and commit it",
  );
  process.exitCode = 1;
}
