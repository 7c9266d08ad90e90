/** Manifests and configs of images, OCI and docker schema 2, parsed and bounded. */
import * as v from "valibot";
import { TinderboxError } from "../base/errors.ts";
import type { ImageConfig } from "./contract.ts";
import type { Descriptor } from "./registry-client.ts";

export const maxConfigBytes: number = 8 << 20;
const maxLayers = 256;
const maxBlobBytes = 16 * 2 ** 30;

const digest = v.pipe(
  v.string(),
  v.regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/, "must be a digest"),
);
const descriptor = v.object({
  mediaType: v.optional(v.string(), ""),
  digest,
  size: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(maxBlobBytes)),
});
const platform = v.object({ architecture: v.string(), os: v.string() });
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

function parse<S extends v.GenericSchema>(schema: S, bytes: Uint8Array, what: string): v.InferOutput<S> {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch (cause) {
    throw new TinderboxError("IMAGE_MALFORMED", `${what} is not JSON`, { cause });
  }
  const result = v.safeParse(schema, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new TinderboxError("IMAGE_MALFORMED", `${what}: ${v.getDotPath(issue) ?? "it"}: ${issue.message}`);
}

/** This machine as image platforms name it. */
export const ownArchitecture: string = process.arch === "x64" ? "amd64" : process.arch;

export type Manifest = { readonly config: Descriptor; readonly layers: readonly Descriptor[] };

/** An image's manifest, or the digest of the one in the index that fits this machine. */
export function parseManifest(
  bytes: Uint8Array,
  mediaType: string,
): { kind: "manifest"; manifest: Manifest } | { kind: "index"; digest: string } {
  const text = Buffer.from(bytes.subarray(0, 1 << 20)).toString("utf8");
  const isIndex =
    mediaType.includes("index") ||
    mediaType.includes("manifest.list") ||
    (!mediaType.includes("manifest.v") && /"manifests"\s*:/.test(text));
  if (mediaType.includes("manifest.v1") && mediaType.includes("docker")) {
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      "docker schema 1 manifests are not supported: push the image again with a current tool",
    );
  }
  if (isIndex) {
    const list = parse(index, bytes, "the image index").manifests;
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
  const parsed = parse(manifest, bytes, "the image manifest");
  for (const layer of parsed.layers) {
    if (layer.mediaType.includes("foreign") || layer.mediaType.includes("nondistributable")) {
      throw new TinderboxError(
        "IMAGE_MALFORMED",
        `layer ${layer.digest} is not distributable (${layer.mediaType})`,
      );
    }
  }
  if (parsed.config.size > maxConfigBytes)
    throw new TinderboxError("IMAGE_MALFORMED", "the image's config is over 8 MiB");
  return { kind: "manifest", manifest: parsed };
}

/** The config of an image and its layers' diff ids. */
export function parseConfig(
  bytes: Uint8Array,
  layers: number,
): { config: ImageConfig; diffIds: readonly string[] } {
  const parsed = parse(config, bytes, "the image's config");
  if (parsed.rootfs.diff_ids.length !== layers) {
    throw new TinderboxError(
      "IMAGE_MALFORMED",
      `the image's config has ${parsed.rootfs.diff_ids.length} diff ids for ${layers} layers`,
    );
  }
  if (parsed.os && parsed.os !== "linux")
    throw new TinderboxError("IMAGE_PLATFORM", `the image is for ${parsed.os}, not linux`);
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
