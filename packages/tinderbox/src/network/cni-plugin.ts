/** Runs one CNI plugin. It is the administrator's program; its time, its output and its processes are bounded all the same. */
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { tryRun } from "../native/run.ts";
import { isObject, type JsonObject } from "./cni-config.ts";

export type CniCommand = "ADD" | "CHECK" | "DEL" | "STATUS" | "GC";

export type PluginCall = {
  readonly command: CniCommand;
  readonly type: string;
  readonly binDirs: readonly string[];
  /** The plugin's standard input */
  readonly input: JsonObject;
  /** CNI_* beside command and path */
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
};

const maxAnswerBytes = 1 << 20;
const maxMessageChars = 2000;

/** Where the plugin's program is. @throws CNI when no directory has it */
export async function findPlugin(binDirs: readonly string[], type: string): Promise<string> {
  for (const directory of binDirs) {
    const path = join(directory, type);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // the next one
    }
  }
  throw new TinderboxError("CNI", `CNI plugin ${type} is not in ${binDirs.join(", ")}`, {
    hint: "Install the CNI plugins (Debian: containernetworking-plugins), or set cni.bin_dirs.",
  });
}

/** One line, not too long: it goes into errors, logs and a node's condition. */
function line(text: string): string {
  const flat = text.replace(/[\x00-\x1f\x7f]+/g, " ").trim();
  return flat.length > maxMessageChars ? `${flat.slice(0, maxMessageChars)}...` : flat;
}

/** What a plugin says of its failure: code, message and details, or else the end of its standard error. */
function failureOf(said: unknown, exitCode: number, stderr: string): string {
  if (isObject(said)) {
    const { code, msg, details } = said;
    const texts = [msg, details].filter((part) => typeof part === "string" && part !== "");
    const text = line([...(typeof code === "number" ? [`code ${code}`] : []), ...texts].join(": "));
    if (text !== "") return text;
  }
  const tail = line(stderr.slice(-maxMessageChars));
  return `exit status ${exitCode}${tail === "" ? "" : `: ${tail}`}`;
}

/** Its answer, undefined where it says nothing. @throws CNI with the plugin's own code, message and details; TIMEOUT */
export async function runPlugin(call: PluginCall): Promise<unknown> {
  const { command, type, binDirs, input, env, timeoutMs, signal } = call;
  const what = `CNI ${command} by ${type}`;
  const { code, stdout, stderr } = await tryRun(await findPlugin(binDirs, type), [], {
    input: JSON.stringify(input),
    timeoutMs,
    maxOutputBytes: maxAnswerBytes,
    // With whatever it has started: IPAM plugins, iptables.
    ownsGroup: true,
    ...(signal ? { signal } : {}),
    env: {
      PATH: process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin",
      CNI_COMMAND: command,
      CNI_PATH: binDirs.join(":"),
      ...env,
    },
  }).catch((cause) => {
    const error = TinderboxError.from(cause);
    if (error.code !== "TIMEOUT") throw error;
    throw new TinderboxError("TIMEOUT", `${what}: no end after ${timeoutMs} ms; it was killed`, { cause });
  });
  if (stdout.length >= maxAnswerBytes)
    throw new TinderboxError("CNI", `${what}: its answer has ${maxAnswerBytes} bytes or more`);
  let said: unknown;
  try {
    said = stdout.trim() === "" ? undefined : JSON.parse(stdout);
  } catch (cause) {
    if (code === 0) throw new TinderboxError("CNI", `${what}: its answer is not JSON`, { cause });
  }
  if (code !== 0) throw new TinderboxError("CNI", `${what}: ${failureOf(said, code, stderr)}`);
  return said;
}
