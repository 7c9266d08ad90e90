/** A CNI plugin of a test's own: it writes down what it is asked, and fails when it is told to. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** One call: CNI_* of its environment, and its standard input */
export type RecordedCall = {
  readonly env: Readonly<Record<string, string>>;
  readonly input: Readonly<Record<string, unknown>>;
};

const source = (directory: string): string => `#!${process.execPath}
const { existsSync, readFileSync, readdirSync, writeFileSync } = require("node:fs");
const input = JSON.parse(readFileSync(0, "utf8"));
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => key.startsWith("CNI_")));
const n = String(readdirSync(${JSON.stringify(directory)}).length).padStart(4, "0");
writeFileSync(\`${directory}/\${n}-\${env.CNI_COMMAND}.json\`, JSON.stringify({ env, input }));
const fault = \`${directory}/fault-\${env.CNI_COMMAND}\`;
if (existsSync(fault)) {
  process.stdout.write(readFileSync(fault));
  process.exit(1);
}
if (env.CNI_COMMAND === "ADD") process.stdout.write(JSON.stringify(input.prevResult));
`;

export class RecordingPlugin {
  /** What a configuration calls it */
  readonly type = "tb-recorder";
  readonly binDir: string;
  readonly #calls: string;

  /** Makes it below `directory`. */
  constructor(directory: string) {
    this.binDir = join(directory, "bin");
    this.#calls = join(directory, "calls");
    mkdirSync(this.binDir, { recursive: true });
    mkdirSync(this.#calls);
    writeFileSync(join(this.binDir, this.type), source(this.#calls), { mode: 0o755 });
  }

  /** What it was asked so far, oldest first. */
  calls(command: string): readonly RecordedCall[] {
    return readdirSync(this.#calls)
      .filter((name) => name.endsWith(`-${command}.json`))
      .sort()
      .map((name) => JSON.parse(readFileSync(join(this.#calls, name), "utf8")));
  }

  /** From now on it answers a command by this error; undefined: it does not fail any more. */
  fail(command: string, error: object | undefined): void {
    const path = join(this.#calls, `fault-${command}`);
    if (error === undefined) rmSync(path, { force: true });
    else writeFileSync(path, JSON.stringify(error));
  }
}
