/** The daemon's TOML file, key by key: what is allowed, in the words of its errors. Strict: an unknown key is one. */
import * as v from "valibot";
import { logLevels } from "../base/log.ts";
import { absolute, count, table } from "./config-values.ts";
import { imagesTable } from "./images-schema.ts";

/** A unix socket address holds 108 bytes with its NUL. */
const maxSocketPathBytes = 107;

/** One of `words`, or an absolute path. */
const wordOrPath = (words: readonly string[], allowed: string) =>
  v.pipe(
    v.string(allowed),
    v.check((text) => words.includes(text) || v.is(absolute, text), allowed),
  );
const fileOrEmpty = wordOrPath([""], 'an absolute path, or ""');
const nameText = "a name of lower-case letters, digits, dots and hyphens, as RuntimeClass has them";
const runtimeName = v.pipe(v.string(nameText), v.regex(/^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/, nameText));
const programText = "a program's name or absolute path";
const vmmText = '"auto", "firecracker", "firecracker-qemu" or an absolute path';
const jailerText = '"auto", "none" or an absolute path';
const mirrorText = "an http:// or https:// URL without credentials or a query";

function isMirror(text: string): boolean {
  return /^https?:\/\/[^\s/@?#]+(\/[^\s?#]*)?$/.test(text) && URL.canParse(text);
}

const networkText = 'a CNI network\'s name, or "" for that of the first file';

const metricsText =
  'an absolute path of a unix socket, a loopback address with a port ("127.0.0.1:9745"), or "" for none';
const metricsListen = v.pipe(
  v.string(metricsText),
  v.check(
    (listen) =>
      listen === "" ||
      (/^\/[^\0]+$/.test(listen) && Buffer.byteLength(listen) <= maxSocketPathBytes) ||
      (/^(localhost|127(\.\d{1,3}){3}|\[::1\]):\d{1,5}$/.test(listen) &&
        Number(listen.slice(listen.lastIndexOf(":") + 1)) <= 65_535),
    metricsText,
  ),
);

const ociRuntime = table({
  type: v.literal("oci"),
  path: v.pipe(v.string(programText), v.regex(/^(\/[^\0]+|[\w.+-]+)$/, programText)),
});
const microVmRuntime = table({
  type: v.literal("microvm"),
  vmm: v.optional(wordOrPath(["auto", "firecracker", "firecracker-qemu"], vmmText), "auto"),
  jailer: v.optional(wordOrPath(["auto", "none"], jailerText), "auto"),
  kernel: v.optional(fileOrEmpty, ""),
  initrd: v.optional(fileOrEmpty, ""),
  boot_args: v.optional(
    v.pipe(v.string("text"), v.regex(/^[\x20-\x7e]{0,1024}$/, "at most 1024 printable ASCII characters")),
    "",
  ),
  vcpus: v.optional(count(1, 32), 1),
  // Below this the stock kernel and its initramfs do not fit.
  memory_mib: v.optional(count(96, 1 << 20), 256),
});

/** One file; every key may be left out. */
export const fileSchema = table({
  root: v.optional(absolute),
  state: v.optional(absolute),
  listen: v.optional(
    v.pipe(
      absolute,
      v.check(
        (path) => Buffer.byteLength(path) <= maxSocketPathBytes,
        `a path of at most ${maxSocketPathBytes} bytes`,
      ),
    ),
  ),
  log_level: v.optional(v.picklist(logLevels, logLevels.join(", "))),
  default_runtime: v.optional(runtimeName),
  runtimes: v.optional(
    v.record(
      runtimeName,
      v.variant("type", [ociRuntime, microVmRuntime], 'a table with type = "oci" or "microvm"'),
      "a table of runtimes",
    ),
  ),
  enable_criu_support: v.optional(v.boolean("true or false")),
  cni: v.optional(
    v.pipe(
      v.custom<object>((value) => typeof value === "object" && !Array.isArray(value), "a table"),
      table({
        conf_dir: v.optional(absolute),
        bin_dirs: v.optional(
          v.pipe(v.array(absolute, "a list of paths"), v.minLength(1, "at least one path")),
        ),
        default_network: v.optional(
          v.pipe(v.string(networkText), v.regex(/^([A-Za-z0-9][A-Za-z0-9_.-]{0,127})?$/, networkText)),
        ),
      }),
    ),
  ),
  cdi_spec_dirs: v.optional(v.array(absolute, "a list of paths")),
  metrics: v.optional(table({ listen: v.optional(metricsListen) })),
  images: v.optional(imagesTable),
  registries: v.optional(
    v.record(
      v.pipe(v.string(), v.regex(/^[a-z0-9.-]+(:\d{1,5})?$/i, "a registry's host, maybe with a port")),
      table({
        mirrors: v.array(v.pipe(v.string(mirrorText), v.check(isMirror, mirrorText)), "a list of URLs"),
      }),
      "a table of registries",
    ),
  ),
});
export type FileConfig = v.InferOutput<typeof fileSchema>;
