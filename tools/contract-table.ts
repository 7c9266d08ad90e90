/**
 * The table in docs/firecracker-qemu.md: what each call of the API does, as the contract suite has just seen it.
 *   node tools/contract-table.ts RESULTS           writes it
 *   node tools/contract-table.ts --check RESULTS   fails when the committed one differs, or the suite has not made a call
 * RESULTS is what CONTRACT_RESULTS named, see tests/contract/harness/record.ts.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ContractRecord } from "../tests/contract/harness/record.ts";

const page = join(import.meta.dirname, "../docs/firecracker-qemu.md");
const [begin, end] = ["<!-- made by tools/contract-table.ts -->", "<!-- end -->"];

/** Every operation of Firecracker 1.17, three of which its OpenAPI file leaves out. */
const operations: readonly string[] = [
  ...["GET /", "GET /version", "GET /vm/config", "PATCH /vm"],
  ...["PUT /actions InstanceStart", "PUT /actions FlushMetrics", "PUT /actions SendCtrlAltDel"],
  ...[
    "PUT /boot-source",
    "GET /machine-config",
    "PUT /machine-config",
    "PATCH /machine-config",
    "PUT /cpu-config",
  ],
  ...["PUT /drives/{id}", "PATCH /drives/{id}", "DELETE /drives/{id}"],
  ...["PUT /pmem/{id}", "PATCH /pmem/{id}", "DELETE /pmem/{id}"],
  ...["PUT /network-interfaces/{id}", "PATCH /network-interfaces/{id}", "DELETE /network-interfaces/{id}"],
  ...["PUT /vsock", "PUT /entropy", "PUT /serial", "PUT /logger", "PUT /metrics"],
  ...[
    "GET /balloon",
    "PUT /balloon",
    "PATCH /balloon",
    "GET /balloon/statistics",
    "PATCH /balloon/statistics",
  ],
  ...["PATCH /balloon/hinting/start", "GET /balloon/hinting/status", "PATCH /balloon/hinting/stop"],
  ...["GET /hotplug/memory", "PUT /hotplug/memory", "PATCH /hotplug/memory"],
  ...["GET /mmds", "PUT /mmds", "PATCH /mmds", "PUT /mmds/config"],
  ...["PUT /snapshot/create", "PUT /snapshot/load"],
];

/** What was seen of one operation in one phase. */
class Phase {
  isAccepted = false;
  /** Refused because QEMU cannot */
  isUnsupported = false;
  /** Refused as Firecracker refuses it */
  isRefused = false;

  toString(): string {
    if (this.isUnsupported && !this.isAccepted) return "**no**";
    if (this.isAccepted) return "yes";
    return this.isRefused ? "refused" : "";
  }
}

class Operation {
  readonly before: Phase = new Phase();
  readonly after: Phase = new Phase();
  readonly reasons = new Set<string>();
}

/** `PUT /drives/a` is an answer to `PUT /drives/{id}`. */
function operationOf(method: string, path: string, action: string | undefined): string {
  const named = path.replace(/^\/(drives|pmem|network-interfaces)\/[^/]+$/, "/$1/{id}");
  return [method, named, ...(action === undefined ? [] : [action])].join(" ");
}

function read(path: string): ReadonlyMap<string, Operation> {
  const all = new Map(operations.map((name) => [name, new Operation()]));
  const started = new Set<string>();
  for (const line of readFileSync(path, "utf8").split("\n").filter(Boolean)) {
    // Our own harness wrote it.
    const record = JSON.parse(line) as ContractRecord;
    if (!("method" in record)) {
      started.delete(record.vmm);
      if (record.isStarted) started.add(record.vmm);
      continue;
    }
    const { vmm, method, status, fault = "" } = record;
    const name = operationOf(method, record.path, record.action);
    const operation = all.get(name);
    const phase = started.has(vmm) ? operation?.after : operation?.before;
    const [, what, why] =
      /(`[^`]+`[^:]{0,60}?) is not supported by firecracker-qemu: (.+?)\.?$/.exec(fault) ?? [];
    if (phase !== undefined) {
      if (status < 300) phase.isAccepted = true;
      else if (what === undefined) phase.isRefused = true;
      else phase.isUnsupported = true;
    }
    if (what !== undefined) operation?.reasons.add(`${what}: ${why}`);
    if (status < 300 && /InstanceStart$|snapshot\/load$/.test(name)) started.add(vmm);
  }
  return all;
}

/** A device that cannot be made answers for nothing: a call for one that is not there may be accepted and does nothing. */
function withoutEmptyPromises(all: ReadonlyMap<string, Operation>): void {
  for (const [name, { before, after }] of all) {
    const made = all.get(name.replace(/^\w+/, "PUT"))?.before;
    if (made === undefined || made.isAccepted || !made.isUnsupported) continue;
    for (const phase of [before, after]) {
      phase.isUnsupported ||= phase.isAccepted;
      phase.isAccepted = false;
    }
  }
}

function render(all: ReadonlyMap<string, Operation>): string {
  const rows = [...all].map(
    ([name, { before, after, reasons }]) =>
      `| \`${name}\` | ${before} | ${after} | ${[...reasons].toSorted().join("; ")} |`,
  );
  return [
    begin,
    "| call | before the start | after it | what is refused because of QEMU, and why |",
    "|---|---|---|---|",
    ...rows,
    end,
  ].join("\n");
}

const [results = "", ...more] = process.argv.slice(2).filter((argument) => argument !== "--check");
if (results === "" || more.length > 0) {
  console.error("usage: node tools/contract-table.ts [--check] RESULTS");
  process.exit(2);
}
const seen = read(results);
withoutEmptyPromises(seen);
const missing = [...seen].filter(([, { before, after }]) => `${before}${after}` === "").map(([name]) => name);
if (missing.length > 0) {
  console.error(`${results}: no contract test has made these calls: ${missing.join(", ")}`);
  process.exit(1);
}
const text = readFileSync(page, "utf8");
const [from, to] = [text.indexOf(begin), text.indexOf(end)];
if (from < 0 || to < from) throw new Error(`${page}: there is no ${begin} ... ${end}`);
const made = `${text.slice(0, from)}${render(seen)}${text.slice(to + end.length)}`;
if (!process.argv.includes("--check")) writeFileSync(page, made);
else if (made !== text) {
  console.error(
    `${page}: its table is not what the contract suite has seen: node tools/contract-table.ts ${results}`,
  );
  const lines = new Set(text.split("\n"));
  for (const line of made.split("\n")) if (!lines.has(line)) console.error(`  ${line}`);
  process.exit(1);
}
