// A contract as a table: requests in order, each with what Firecracker answers. Written once, true of every program under test.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { isProgram, type Limited } from "./binary.ts";
import type { HttpAnswer } from "./connection.ts";
import { lacks } from "./contains.ts";
import { Vmm } from "./vmm.ts";

/** One request and its answer. */
export type Row = {
  /** Method and path; `DIR` stands for the process's directory, here and in the body */
  readonly send: string;
  /** Text as it is, anything else as JSON; none if absent */
  readonly body?: unknown;
  readonly status: number;
  /** What the refusal names */
  readonly says?: RegExp;
  /** What the answer's JSON has: of objects the fields that are named, of arrays all elements */
  readonly shows?: object;
  /** The request used something that will go */
  readonly isDeprecated?: true;
  /** The key of a refusal, when it is not `fault_message` */
  readonly key?: "error";
  /** What there is to be seen afterwards, on the host or in GET */
  readonly effect?: (vmm: Vmm) => void | Promise<void>;
  /** A program that cannot do this and refuses it by name; when it can, the mark has to go */
  readonly unsupportedBy?: Limited;
};

/** A body of the API: any JSON. */
export const put = (path: string, body: unknown, status = 204, more: Partial<Row> = {}): Row => ({
  send: `PUT ${path}`,
  body,
  status,
  ...more,
});
export const patch = (path: string, body: unknown, status = 204, more: Partial<Row> = {}): Row => ({
  send: `PATCH ${path}`,
  body,
  status,
  ...more,
});
export const get = (path: string, shows: object, more: Partial<Row> = {}): Row => ({
  send: `GET ${path}`,
  status: 200,
  shows,
  ...more,
});
/** A refusal that says something. */
export const refused = (send: string, body: unknown, says: RegExp, more: Partial<Row> = {}): Row => ({
  send,
  ...(body === undefined ? {} : { body }),
  status: 400,
  says,
  ...more,
});

export const beforeStart = /not supported before starting the microVM/;
export const afterStart = /not supported after starting the microVM/;

function textOf(row: Row, vmm: Vmm): string | Buffer | undefined {
  const { body } = row;
  if (Buffer.isBuffer(body)) return body;
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  return text?.replaceAll("DIR", vmm.directory);
}

function checkRefusal({ status, text }: HttpAnswer, row: Row, what: string): void {
  const key = row.key ?? "fault_message";
  assert.match(text, new RegExp(`^\\{\\s*"${key}"\\s*:`), what);
  // The HTTP layer's own body has a line break in its string, and so is no JSON.
  if (key === "fault_message") assert.equal(typeof JSON.parse(text)[key], "string", what);
  assert.equal(status, row.status, what);
  if (row.says !== undefined) assert.match(text, row.says, what);
}

function check(answer: HttpAnswer, row: Row, vmm: Vmm, what: string): void {
  const { status, headers, text, line } = answer;
  if (row.unsupportedBy !== undefined && isProgram(row.unsupportedBy)) {
    assert.equal(status, 400, `works now, or is accepted without working: take the mark away. ${what}`);
    assert.match(text, new RegExp(`not supported by ${row.unsupportedBy}: .{10,}`), what);
    return;
  }
  assert.equal(status, row.status, what);
  assert.equal(line, `HTTP/1.1 ${status} `, what);
  assert.equal(headers.get("Server"), "Firecracker API", what);
  assert.equal(headers.get("Connection"), "keep-alive", what);
  assert.equal(headers.get("Deprecation"), row.isDeprecated === true ? "true" : undefined, what);
  if (status === 204) {
    assert.equal(text, "", what);
    assert.equal(headers.get("Content-Length"), undefined, what);
    return;
  }
  assert.equal(headers.get("Content-Type"), "application/json", what);
  if (status >= 400) checkRefusal(answer, row, what);
  else if (row.shows !== undefined) {
    // The directory's name stands for itself, in the other direction.
    const shown: unknown = JSON.parse(text.replaceAll(vmm.directory, "DIR"));
    assert.equal(lacks(shown, row.shows), undefined, what);
  }
}

/** Sends the rows in order and checks each answer. */
export async function runRows(vmm: Vmm, rows: readonly Row[]): Promise<void> {
  for (const row of rows) {
    const [method = "", ...path] = row.send.split(" ");
    const body = textOf(row, vmm);
    const answer = await vmm.send(method, path.join(" ").replaceAll("DIR", vmm.directory), body);
    const what = `${row.send} ${String(body ?? "").slice(0, 300)} → ${answer.line}${answer.text.slice(0, 1000)}`;
    check(answer, row, vmm, what);
    await row.effect?.(vmm);
  }
}

/** Files that bodies name: a drive of 4 MiB, another of 8, one of no whole sectors, an empty one, a directory. */
export function prepareFiles(directory: string): readonly string[] {
  for (const [name, bytes] of Object.entries({
    "disk.img": 4 << 20,
    "disk2.img": 8 << 20,
    "odd.img": 1000,
    empty: 0,
  }))
    writeFileSync(join(directory, name), Buffer.alloc(bytes));
  return [];
}

/** A test: a fresh process before its start, and these rows. */
export function sequence(name: string, rows: readonly Row[], args: readonly string[] = []): void {
  // The runner waits for it.
  void test(name, async () => {
    await using vmm = await Vmm.start(args, prepareFiles);
    await runRows(vmm, rows);
  });
}
