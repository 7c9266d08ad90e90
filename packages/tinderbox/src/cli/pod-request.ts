/** What `tinderbox run` asks the daemon for: one pod with one container, of the flags a person gives. */

import { randomBytes, randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../base/errors.ts";
import {
  type ContainerConfigSchema,
  NamespaceMode,
  type PodSandboxConfigSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";

export type RunOptions = {
  readonly runtime?: string;
  readonly tty: boolean;
  readonly interactive: boolean;
  readonly detach: boolean;
  readonly name?: string;
  readonly env: readonly string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly pull: string;
  readonly timing: boolean;
  readonly quiet: boolean;
};

/** Pods that were made by `tinderbox run -d` keep their logs here. */
export const logRoot = "/var/log/tinderbox/pods";

export type PodRequest = {
  readonly name: string;
  readonly pod: MessageInitShape<typeof PodSandboxConfigSchema>;
  readonly container: MessageInitShape<typeof ContainerConfigSchema>;
};

function parseEnv(entry: string): { key: string; value: string } {
  const at = entry.indexOf("=");
  if (at > 0) return { key: entry.slice(0, at), value: entry.slice(at + 1) };
  if (at < 0 && entry !== "") return { key: entry, value: process.env[entry] ?? "" };
  throw new TinderboxError(
    "INVALID",
    `--env ${JSON.stringify(entry)}: NAME=VALUE, or the NAME of one of yours`,
  );
}

/** `UID[:GID]` or a name, as CRI has them. */
function parseUser(user: string): object {
  const [who = "", group] = user.split(":");
  const number = /^\d{1,10}$/;
  if (who === "" || (group !== undefined && !number.test(group)))
    throw new TinderboxError("INVALID", `--user ${JSON.stringify(user)}: NAME, UID or UID:GID`);
  return {
    ...(number.test(who) ? { runAsUser: { value: BigInt(who) } } : { runAsUsername: who }),
    ...(group === undefined ? {} : { runAsGroup: { value: BigInt(group) } }),
  };
}

/** @throws INVALID naming the flag */
export function podRequest(image: string, command: readonly string[], options: RunOptions): PodRequest {
  const name = options.name ?? `run-${randomBytes(3).toString("hex")}`;
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$/.test(name))
    throw new TinderboxError(
      "INVALID",
      `--name ${JSON.stringify(name)}: 1 to 63 letters, digits, "_", "." or "-"`,
    );
  const uid = randomUUID();
  const namespaceOptions = { pid: NamespaceMode.CONTAINER };
  return {
    name,
    pod: {
      metadata: { name, namespace: "default", uid, attempt: 0 },
      hostname: name.replaceAll(/[_.]/g, "-"),
      logDirectory: options.detach ? `${logRoot}/${name}_${uid}` : "",
      linux: { cgroupParent: "", securityContext: { namespaceOptions } },
    },
    container: {
      metadata: { name, attempt: 0 },
      image: { image, userSpecifiedImage: image },
      // An image's entrypoint stays: what follows `--` are its arguments, as with docker run.
      args: [...command],
      workingDir: options.workdir ?? "",
      envs: options.env.map(parseEnv),
      logPath: options.detach ? `${name}.log` : "",
      stdin: options.interactive,
      stdinOnce: options.interactive,
      tty: options.tty,
      linux: {
        securityContext: {
          namespaceOptions,
          ...(options.user === undefined ? {} : parseUser(options.user)),
        },
      },
    },
  };
}
