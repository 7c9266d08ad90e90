// What the program under test answered, line by line in the file that CONTRACT_RESULTS names: docs/firecracker-qemu.md's table is
// made of it by tools/contract-table.ts.
//
//   {"vmm": DIRECTORY, "isStarted": BOOLEAN}                                             a process; started if a config file starts it
//   {"vmm": DIRECTORY, "method": "PUT", "path": "/drives/a", "action": TEXT, "status": 204, "fault": TEXT}
//
// `action` is there for PUT /actions, `fault` for a refusal.
import { appendFileSync } from "node:fs";

const file = process.env["CONTRACT_RESULTS"];

/** One line of the file. */
export type ContractRecord =
  | { readonly vmm: string; readonly isStarted: boolean }
  | {
      readonly vmm: string;
      readonly method: string;
      readonly path: string;
      readonly action?: string;
      readonly status: number;
      readonly fault?: string;
    };

/** Adds a line, if somebody wants to know. */
export function record(line: ContractRecord): void {
  if (file !== undefined && file !== "") appendFileSync(file, `${JSON.stringify(line)}\n`);
}

/** Adds the line of an answer. */
export function recordAnswer(
  vmm: string,
  request: { readonly method: string; readonly path: string; readonly body: string | Buffer | undefined },
  { status, text }: { readonly status: number; readonly text: string },
): void {
  const { method, path, body } = request;
  const action = path === "/actions" ? /"action_type"\s*:\s*"(\w+)"/.exec(String(body))?.[1] : undefined;
  const fault = status < 400 ? undefined : /"fault_message"\s*:\s*("(?:[^"\\]|\\.)*")/.exec(text)?.[1];
  record({
    vmm,
    method,
    path,
    ...(action === undefined ? {} : { action }),
    status,
    ...(fault === undefined ? {} : { fault: String(JSON.parse(fault)).replaceAll(vmm, "DIR") }),
  });
}
