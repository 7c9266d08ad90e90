/** Debian's docker-registry on a free loopback port. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

export type TestRegistry = { readonly url: string; readonly host: string; stop(): Promise<void> };

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no TCP port");
  return address.port;
}

/** Starts a registry with its storage below `dir`; it dies with this process. */
export async function startRegistry(options: {
  readonly dir: string;
  /** @default a directory below `dir` */
  readonly storage?: string;
  /** A line of its configuration */
  readonly auth?: string;
}): Promise<TestRegistry> {
  mkdirSync(options.dir, { recursive: true });
  const host = `127.0.0.1:${await freePort()}`;
  const config = join(options.dir, "config.yml");
  writeFileSync(
    config,
    `version: 0.1\nlog: { level: info }\nstorage: { filesystem: { rootdirectory: ${options.storage ?? join(options.dir, "data")} } }\nhttp: { addr: "${host}" }\n${options.auth ?? ""}\n`,
  );
  const child = spawn("setpriv", ["--pdeathsig", "KILL", "--", "docker-registry", "serve", config], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const ended = once(child, "exit");
  let said = "";
  await new Promise<void>((resolve, reject) => {
    child.stderr.on("data", (chunk: Buffer) => {
      said += chunk.toString("utf8");
      if (said.includes("listening on")) resolve();
    });
    child.once("exit", (code) => reject(new Error(`docker-registry ended with status ${code}:\n${said}`)));
  });
  return {
    url: `http://${host}`,
    host,
    stop: async () => {
      child.kill("SIGKILL");
      await ended;
      rmSync(options.dir, { recursive: true, force: true });
    },
  };
}
