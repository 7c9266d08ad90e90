/** Signatures in cosign's form, made by openssl, and a registry with images that cosign itself signed. */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import * as v from "valibot";
import { mediaTypes } from "./oci-layout.ts";
import type { OwnRegistry } from "./own-registry.ts";

const payloadType = "application/vnd.dev.cosign.simplesigning.v1+json";

export type KeyPair = { readonly privatePath: string; readonly publicPath: string };

/** A P-256 key pair in `dir`. */
export function makeKey(dir: string, name: string): KeyPair {
  const privatePath = join(dir, `${name}.key`);
  const publicPath = join(dir, `${name}.pub`);
  const options = { stdio: "ignore" } as const;
  execFileSync(
    "openssl",
    ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", privatePath],
    options,
  );
  execFileSync("openssl", ["ec", "-in", privatePath, "-pubout", "-out", publicPath], options);
  return { privatePath, publicPath };
}

export type Signature = { readonly payload: string; readonly base64: string; readonly mediaType?: string };

/** A payload as cosign writes it. */
export function payloadOf(reference: string, digest: string): object {
  return {
    critical: {
      identity: { "docker-reference": reference },
      image: { "docker-manifest-digest": digest },
      type: "cosign container image signature",
    },
    optional: null,
  };
}

export function signPayload(content: object | string, { privatePath }: KeyPair): Signature {
  const payload = typeof content === "string" ? content : JSON.stringify(content);
  const base64 = execFileSync("openssl", ["dgst", "-sha256", "-sign", privatePath], {
    input: payload,
  }).toString("base64");
  return { payload, base64 };
}

/** Puts signatures where cosign does. */
export function putSignatures(
  registry: OwnRegistry,
  repository: string,
  digest: string,
  signatures: readonly Signature[],
): void {
  const layers = signatures.map(({ payload, base64, mediaType = payloadType }) => ({
    ...registry.blob(repository, Buffer.from(payload), mediaType),
    annotations: { "dev.cosignproject.cosign/signature": base64 },
  }));
  const config = registry.blob(repository, Buffer.from("{}"), mediaTypes.config);
  registry.manifest(
    repository,
    { schemaVersion: 2, mediaType: mediaTypes.manifest, config, layers },
    mediaTypes.manifest,
    `${digest.replace(":", "-")}.sig`,
  );
}

const texts = v.record(v.string(), v.string());
const cosignImages = v.object({
  keys: texts,
  repositories: v.record(
    v.string(),
    v.object({
      manifests: v.record(v.string(), v.object({ mediaType: v.string(), text: v.string() })),
      blobs: texts,
      layers: texts,
    }),
  ),
});

/**
 * Fills `registry` with what cosign 2.4.3 (or by `file` another) signed (the file says how) and writes its public keys to `dir`: paths
 * by the kind of key. The images call themselves registry.example/REPOSITORY.
 */
export function serveCosignImages(
  registry: OwnRegistry,
  dir: string,
  file: "cosign-images.json" | "cosign3-images.json" = "cosign-images.json",
): ReadonlyMap<string, string> {
  const content = readFileSync(join(import.meta.dirname, file), "utf8");
  const { keys, repositories } = v.parse(cosignImages, JSON.parse(content));
  for (const [name, { manifests, blobs, layers }] of Object.entries(repositories)) {
    for (const [tag, { mediaType, text }] of Object.entries(manifests))
      registry.manifestText(name, text, mediaType, tag);
    for (const text of Object.values(blobs)) registry.blob(name, Buffer.from(text));
    for (const base64 of Object.values(layers))
      registry.blob(name, gunzipSync(Buffer.from(base64, "base64")));
  }
  return new Map(
    Object.entries(keys).map(([kind, pem]) => {
      const path = join(dir, `${kind.replaceAll(" ", "-")}.pub`);
      writeFileSync(path, pem);
      return [kind, path] as const;
    }),
  );
}
