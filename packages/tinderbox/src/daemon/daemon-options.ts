/** tinderboxd's command line. */
import { parseArgs } from "node:util";
import { TinderboxError } from "../base/errors.ts";
import { type LogFormat, type LogLevel, logLevels } from "../base/log.ts";

export const daemonUsage = `Usage: tinderboxd [options]

Serves the Kubernetes Container Runtime Interface on a unix socket.

  --config FILE        configuration (default: /etc/tinderbox/config.toml if it is there)
  --root DIR           images and database (default: /var/lib/tinderbox)
  --state DIR          sockets and namespaces (default: /run/tinderbox)
  --listen SOCKET      CRI socket (default: /run/tinderbox/tinderbox.sock)
  --log-level LEVEL    ${logLevels.join(", ")} (default: the configuration's, or info)
  --log-format FORMAT  text, json (default: text)
  --exit-with-parent   end when standard input does
  --help, --version

SIGTERM and SIGINT end the daemon; pods keep running and are found again by the next one.
SIGHUP reads the configuration again: log_level, images and registries count at once, the rest at the next start.
`;

export type DaemonOptions = {
  readonly config: string | undefined;
  readonly root: string | undefined;
  readonly state: string | undefined;
  readonly listen: string | undefined;
  readonly logLevel: LogLevel | undefined;
  readonly logFormat: LogFormat;
  readonly exitWithParent: boolean;
  readonly ask: "help" | "version" | undefined;
};

function pick<T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found !== undefined) return found;
  throw new TinderboxError("INVALID", `${flag} ${value}: allowed are ${allowed.join(", ")}`);
}

/** Parses the arguments. @throws INVALID */
export function parseDaemonOptions(argv: readonly string[]): DaemonOptions {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  try {
    const { values } = parseArgs({
      args: [...argv],
      allowPositionals: false,
      options: {
        config: text,
        root: text,
        state: text,
        listen: text,
        "log-level": text,
        "log-format": { type: "string", default: "text" },
        "exit-with-parent": flag,
        help: { ...flag, short: "h" },
        version: flag,
      },
    });
    for (const name of ["root", "state", "listen"] as const) {
      const path = values[name];
      if (path !== undefined && (!/^\/./.test(path) || path.split("/").includes(".."))) {
        throw new TinderboxError(
          "INVALID",
          `--${name} ${path}: an absolute path other than /, without \`..\``,
        );
      }
    }
    return {
      config: values.config,
      root: values.root,
      state: values.state,
      listen: values.listen,
      logLevel:
        values["log-level"] === undefined ? undefined : pick("--log-level", values["log-level"], logLevels),
      logFormat: pick("--log-format", values["log-format"], ["text", "json"]),
      exitWithParent: values["exit-with-parent"],
      ask: values.help ? "help" : values.version ? "version" : undefined,
    };
  } catch (cause) {
    throw TinderboxError.from(cause, "INVALID");
  }
}
