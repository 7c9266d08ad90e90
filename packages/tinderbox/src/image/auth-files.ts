/** Credentials on disk: containers-auth.json(5) and Docker's config.json, with their credential helpers. Read at each use. */
import { readFile } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import * as v from "valibot";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { tryRun } from "../native/run.ts";
import type { RegistryAuth } from "./contract.ts";

export type AuthSources = {
  /** Absolute; the first that knows the registry counts, one that is not there is passed over */
  readonly files: readonly string[];
  /** Where `docker-credential-NAME` is looked for, absolute; "" = no helper is run */
  readonly helpersDir: string;
  /** A helper that is not done by then is killed, `ms`. @default 20_000 */
  readonly helperTimeoutMs?: number;
};

const maxFileBytes = 1 << 20;
const defaultHelperTimeoutMs = 20_000;
const maxHelperBytes = 64 << 10;

const text = v.optional(v.string(), "");
const fileSchema = v.object({
  auths: v.optional(
    v.record(
      v.string(),
      v.object({ auth: text, username: text, password: text, identitytoken: text, registrytoken: text }),
    ),
    {},
  ),
  credHelpers: v.optional(v.record(v.string(), v.string()), {}),
  credsStore: text,
});
type AuthFile = v.InferOutput<typeof fileSchema>;
type Entry = AuthFile["auths"][string];

const answerSchema = v.object({ Username: v.string(), Secret: v.string() });

const dockerHubKeys = ["https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"];

/** The keys under which credentials for `name` may be, the most exact first. */
function keysFor(name: string): readonly string[] {
  const parts = name.split("/");
  const keys = parts.map((_, n) => parts.slice(0, parts.length - n).join("/"));
  const host = parts[0] ?? "";
  // Docker files them with scheme and path.
  const legacy = [
    `https://${host}`,
    `http://${host}`,
    `${host}/v1/`,
    `https://${host}/v1/`,
    `https://${host}/v2/`,
  ];
  return [...keys, ...legacy, ...(host === "docker.io" ? dockerHubKeys : [])];
}

/** `user:password` in base64. */
export function parseBasic(base64: string): RegistryAuth | undefined {
  const plain = Buffer.from(base64, "base64").toString("utf8").replace(/\0+$/, "");
  const colon = plain.indexOf(":");
  if (colon < 1) return undefined;
  return { kind: "basic", username: plain.slice(0, colon), password: plain.slice(colon + 1) };
}

function ofEntry(entry: Entry, where: string): RegistryAuth | undefined {
  if (entry.registrytoken !== "") return { kind: "registry-token", token: entry.registrytoken };
  if (entry.identitytoken !== "") return { kind: "identity-token", token: entry.identitytoken };
  if (entry.auth !== "") {
    const basic = parseBasic(entry.auth);
    if (basic === undefined)
      throw new TinderboxError("REGISTRY_AUTH", `${where}: auth is not user:password in base64`);
    return basic;
  }
  if (entry.username === "" && entry.password === "") return undefined;
  return { kind: "basic", username: entry.username, password: entry.password };
}

async function readAuthFile(path: string): Promise<AuthFile | undefined> {
  let json: unknown;
  try {
    const bytes = await readFile(path);
    if (bytes.length > maxFileBytes) throw new Error(`over ${maxFileBytes} bytes`);
    json = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return undefined;
    // What JSON.parse says quotes the file.
    const why = cause instanceof SyntaxError ? "it is not JSON" : TinderboxError.from(cause).message;
    throw new TinderboxError("REGISTRY_AUTH", `${path}: ${why}`);
  }
  const result = v.safeParse(fileSchema, json);
  if (result.success) return result.output;
  throw new TinderboxError(
    "REGISTRY_AUTH",
    `${path}: ${v.getDotPath(result.issues[0]) ?? "it"}: not as auth.json has it`,
  );
}

/** Asks `docker-credential-HELPER get`. */
async function askHelper(
  helper: string,
  server: string,
  { helpersDir: dir, helperTimeoutMs = defaultHelperTimeoutMs }: AuthSources,
  where: string,
  signal: AbortSignal,
): Promise<RegistryAuth | undefined> {
  const fail = (why: string): TinderboxError =>
    new TinderboxError(
      "REGISTRY_AUTH",
      `${where}: credential helper ${JSON.stringify(helper.slice(0, 100))}: ${why}`,
    );
  if (!/^[\w][\w.-]{0,63}$/.test(helper)) throw fail("not a helper's name");
  if (!isAbsolute(dir)) throw fail("images.credential_helpers_dir does not say where helpers are");
  const program = join(dir, `docker-credential-${helper}`);
  const { HOME = "/root" } = process.env;
  const { code, stdout } = await tryRun(program, ["get"], {
    input: server,
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME },
    cwd: "/",
    timeoutMs: helperTimeoutMs,
    maxOutputBytes: maxHelperBytes,
    signal,
  }).catch((cause: unknown) => {
    signal.throwIfAborted();
    // Its output could hold a secret.
    const { code: failure } = TinderboxError.from(cause);
    throw fail(
      failure === "TOOL_MISSING"
        ? `${program} is not there`
        : failure === "TIMEOUT"
          ? `no end after ${helperTimeoutMs / 1000} s`
          : "it could not be run",
    );
  });
  if (code !== 0) {
    if (/credentials not found/i.test(stdout)) return undefined;
    throw fail(`exit status ${code}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(stdout);
  } catch {
    throw fail("its answer is not JSON");
  }
  const answer = v.safeParse(answerSchema, json);
  if (!answer.success) throw fail("its answer has no Username and Secret");
  const { Username, Secret } = answer.output;
  if (Username === "" && Secret === "") return undefined;
  return Username === "<token>"
    ? { kind: "identity-token", token: Secret }
    : { kind: "basic", username: Username, password: Secret };
}

async function findInFile(
  path: string,
  file: AuthFile,
  name: string,
  sources: AuthSources,
  signal: AbortSignal,
): Promise<RegistryAuth | undefined> {
  const keys = keysFor(name);
  const [host = ""] = name.split("/");
  const serverOf = (key: string): string => (key === "docker.io" ? (dockerHubKeys[0] ?? key) : key);
  for (const key of keys) {
    const helper = file.credHelpers[key];
    if (helper !== undefined) {
      const found = await askHelper(helper, serverOf(key), sources, path, signal);
      if (found) return found;
    }
    const entry = file.auths[key];
    const found = entry && ofEntry(entry, `${path}: auths.${JSON.stringify(key)}`);
    if (found) return found;
  }
  return file.credsStore === ""
    ? undefined
    : askHelper(file.credsStore, serverOf(host), sources, path, signal);
}

/**
 * The credentials for `name` (`registry/repository`), the most exact key first.
 * @throws REGISTRY_AUTH for a file or helper that is broken; no secret is in its text
 */
export async function findInAuthFiles(
  sources: AuthSources,
  name: string,
  signal: AbortSignal,
): Promise<RegistryAuth | undefined> {
  for (const path of sources.files) {
    const file = await readAuthFile(path);
    const found = file && (await findInFile(path, file, name, sources, signal));
    if (found) return found;
  }
  return undefined;
}
