/** Manifests and configs of images, OCI and docker schema 2, parsed and bounded. */
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { ImageConfig } from "./contract.ts";
import type { Descriptor } from "./image-origin.ts";

export const maxConfigBytes: number = 8 << 20;
const maxLayers = 256;
const maxBlobBytes = 16 * 2 ** 30;
const maxImageBytes = 32 * 2 ** 30;

const digest = v.pipe(
  v.string(),
  v.regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/, "must be a digest"),
);
const descriptor = v.object({
  mediaType: v.optional(v.string(), ""),
  digest,
  size: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(maxBlobBytes)),
});
/** A descriptor as manifests have them. */
export const descriptorSchema: typeof descriptor = descriptor;
const platform = v.object({ architecture: v.string(), os: v.string() });
export type Platform = v.InferOutput<typeof platform>;
const index = v.object({
  manifests: v.pipe(
    v.array(v.object({ ...descriptor.entries, platform: v.optional(platform) })),
    v.maxLength(1024),
  ),
});
const manifest = v.object({
  config: descriptor,
  layers: v.pipe(v.array(descriptor), v.maxLength(maxLayers)),
});
const nullish = <T extends v.GenericSchema>(schema: T) => v.nullish(schema);
const config = v.object({
  architecture: v.optional(v.string()),
  os: v.optional(v.string()),
  config: nullish(
    v.object({
      User: nullish(v.string()),
      Env: nullish(v.array(v.string())),
      Entrypoint: nullish(v.array(v.string())),
      Cmd: nullish(v.array(v.string())),
      WorkingDir: nullish(v.string()),
      StopSignal: nullish(v.string()),
      Labels: nullish(v.record(v.string(), v.string())),
      Volumes: nullish(v.record(v.string(), v.unknown())),
    }),
  ),
  rootfs: v.object({ diff_ids: v.pipe(v.array(digest), v.maxLength(maxLayers)) }),
});

function jsonOf(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch (cause) {
    throw new TinderboxError("IMAGE_MALFORMED", `${what} is not JSON`, { cause });
  }
}

/** JSON of a given shape. @throws IMAGE_MALFORMED naming `what` and the key */
export function parseJson<S extends v.GenericSchema>(
  schema: S,
  bytes: Uint8Array,
  what: string,
): v.InferOutput<S> {
  const result = v.safeParse(schema, jsonOf(bytes, what));
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new TinderboxError("IMAGE_MALFORMED", `${what}: ${v.getDotPath(issue) ?? "it"}: ${issue.message}`);
}

/** This machine as image platforms name it. */
export const ownArchitecture: string = process.arch === "x64" ? "amd64" : process.arch;

/** What some builders write in place of the platform's name. */
const otherNames: Readonly<Record<string, string>> = { x86_64: "amd64", "x86-64": "amd64", aarch64: "arm64" };

export type Manifest = { readonly config: Descriptor; readonly layers: readonly Descriptor[] };

/** The parts by which a manifest is told from an index. */
const shape = v.object({
  mediaType: v.optional(v.string()),
  manifests: v.optional(v.unknown()),
  layers: v.optional(v.unknown()),
});

/** An image's manifest, or the digest of the one in the index that fits this machine. `served` is the Content-Type it came with. */
export function parseManifest(
  bytes: Uint8Array,
  served: string,
): { kind: "manifest"; manifest: Manifest } | { kind: "index"; digest: string } {
  const { mediaType = served, manifests, layers } = parseJson(shape, bytes, "the manifest");
  // One reader would take it for an image, the next for an index of others.
  if (manifests !== undefined && layers !== undefined)
    throw new TinderboxError("IMAGE_MALFORMED", "the manifest has both layers and manifests");
  const isIndex = manifests !== undefined;
  if (mediaType.includes("manifest.v1") && mediaType.includes("docker")) {
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      "docker schema 1 manifests are not supported: push the image again with a current tool",
    );
  }
  if (isIndex) {
    const list = parseJson(index, bytes, "the image index").manifests;
    const fit = list.find(
      (entry) => entry.platform?.os === "linux" && entry.platform.architecture === ownArchitecture,
    );
    if (fit) return { kind: "index", digest: fit.digest };
    const has = list.map((entry) => `${entry.platform?.os}/${entry.platform?.architecture}`).join(", ");
    throw new TinderboxError(
      "IMAGE_PLATFORM",
      `the image is not for linux/${ownArchitecture}; it is for ${has.slice(0, 500)}`,
    );
  }
  const parsed = parseJson(manifest, bytes, "the image manifest");
  for (const layer of parsed.layers) {
    if (layer.mediaType.includes("foreign") || layer.mediaType.includes("nondistributable")) {
      throw new TinderboxError(
        "IMAGE_MALFORMED",
        `layer ${layer.digest} is not distributable (${layer.mediaType})`,
      );
    }
  }
  const total = parsed.layers.reduce((sum, { size }) => sum + size, 0);
  if (total > maxImageBytes)
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      `the image's layers have ${total} bytes, at most ${maxImageBytes} are allowed`,
    );
  if (parsed.config.size > maxConfigBytes)
    throw new TinderboxError("IMAGE_MALFORMED", "the image's config is over 8 MiB");
  return { kind: "manifest", manifest: parsed };
}

/** The config of an image and its layers' diff ids. */
export function parseConfig(
  bytes: Uint8Array,
  layers: number,
): { config: ImageConfig; diffIds: readonly string[] } {
  const parsed = parseJson(config, bytes, "the image's config");
  if (parsed.rootfs.diff_ids.length !== layers) {
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      `the image's config has ${parsed.rootfs.diff_ids.length} diff ids for ${layers} layers`,
    );
  }
  if (parsed.os && parsed.os !== "linux")
    throw new TinderboxError("IMAGE_PLATFORM", `the image is for ${parsed.os}, not linux`);
  const architecture = otherNames[parsed.architecture ?? ""] ?? parsed.architecture;
  if (architecture && architecture !== ownArchitecture)
    throw new TinderboxError("IMAGE_PLATFORM", `the image is for ${architecture}, not ${ownArchitecture}`);
  const c = parsed.config;
  return {
    diffIds: parsed.rootfs.diff_ids,
    config: {
      user: c?.User ?? "",
      env: c?.Env ?? [],
      entrypoint: c?.Entrypoint ?? [],
      cmd: c?.Cmd ?? [],
      workingDir: c?.WorkingDir ?? "",
      stopSignal: c?.StopSignal ?? "",
      labels: c?.Labels ?? {},
      volumes: Object.keys(c?.Volumes ?? {}),
    },
  };
}
