/** Credentials that an operator keeps on disk: which are found, who gets them, and what of helpers is believed. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { createLogger } from "../packages/tinderbox/src/base/log.ts";
import { findInAuthFiles } from "../packages/tinderbox/src/image/auth-files.ts";
import type { PullOptions, RegistryAuth } from "../packages/tinderbox/src/image/contract.ts";
import { openImageService } from "../packages/tinderbox/src/image/image-service.ts";
import { defaultImageSettings } from "../packages/tinderbox/src/image/image-settings.ts";
import { OwnRegistry } from "./support/own-registry.ts";

const work = mkdtempSync("/tmp/tb-auth-");
const helpersDir = join(work, "helpers");
mkdirSync(helpersDir);
after(() => rmSync(work, { recursive: true, force: true }));

const basic = (username: string, password: string): RegistryAuth => ({ kind: "basic", username, password });
const auth = (username: string, password: string): object => ({
  auth: Buffer.from(`${username}:${password}`).toString("base64"),
});
let files = 0;
function authFile(content: object | string): string {
  const path = join(work, `auth-${files++}.json`);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}
/** A helper that writes down how it was called. */
function helper(name: string, script: string): string {
  const path = join(helpersDir, `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return name;
}
const { signal } = new AbortController();
const find = (name: string, ...paths: string[]): Promise<RegistryAuth | undefined> =>
  findInAuthFiles({ files: paths, helpersDir, helperTimeoutMs: 2000 }, name, signal);

describe("files", () => {
  test("the longest key that fits, at its slashes", async () => {
    const file = authFile({
      auths: {
        "reg.example": auth("host", "1"),
        "reg.example/team": auth("team", "2"),
        "reg.example/team/app": auth("app", "a:b"),
        "reg.example:5000": auth("port", "3"),
      },
    });
    assert.deepEqual(await find("reg.example/team/app", file), basic("app", "a:b"));
    assert.deepEqual(await find("reg.example/team/other", file), basic("team", "2"));
    assert.deepEqual(await find("reg.example/teammate/x", file), basic("host", "1"));
    assert.deepEqual(await find("reg.example:5000/x", file), basic("port", "3"));
    assert.equal(await find("evil.reg.example/x", file), undefined);
    assert.equal(await find("reg.example.evil/x", file), undefined);
  });

  test("Docker's ways to write it: Docker Hub's URL, tokens, user and password apart", async () => {
    const file = authFile({
      auths: {
        "https://index.docker.io/v1/": auth("hub", "1"),
        "https://reg.example/v2/": { username: "u", password: "p" },
        "token.example": { auth: "", identitytoken: "refresh" },
        "bearer.example": { registrytoken: "bearer" },
        "empty.example": {},
      },
      HttpHeaders: { "User-Agent": "Docker" },
    });
    assert.deepEqual(await find("docker.io/library/alpine", file), basic("hub", "1"));
    assert.deepEqual(await find("reg.example/a", file), basic("u", "p"));
    assert.deepEqual(await find("token.example/a", file), { kind: "identity-token", token: "refresh" });
    assert.deepEqual(await find("bearer.example/a", file), { kind: "registry-token", token: "bearer" });
    assert.equal(await find("empty.example/a", file), undefined);
  });

  test("the first file that knows the registry; one that is not there is passed over", async () => {
    const one = authFile({ auths: { "a.example": auth("one", "1") } });
    const two = authFile({ auths: { "a.example": auth("two", "2"), "b.example": auth("two", "2") } });
    assert.deepEqual(await find("a.example/x", "/none.json", one, two), basic("one", "1"));
    assert.deepEqual(await find("b.example/x", one, two), basic("two", "2"));
  });

  test("what is broken is said, without a word of what is in it", async () => {
    const broken: readonly (readonly [object | string, RegExp])[] = [
      ["{ s3cret", /auth-\d+\.json: it is not JSON$/],
      [{ auths: { "a.example": { auth: 5 } } }, /auths\.a\.example\.auth: not as auth\.json has it$/],
      [{ auths: { "a.example": { auth: "czNjcmV0" } } }, /auth is not user:password in base64$/],
      ["x".repeat(2 << 20), /over 1048576 bytes$/],
    ];
    for (const [content, message] of broken)
      await assert.rejects(
        find("a.example/x", authFile(content)),
        (error: { code: string; message: string }) => {
          assert.equal(error.code, "REGISTRY_AUTH");
          assert.match(error.message, message);
          assert.doesNotMatch(error.message, /s3cret|czNjcmV0/);
          return true;
        },
      );
  });
});

describe("credential helpers", () => {
  const call = join(work, "call");
  const answer = (text: string): string =>
    `(cat; echo; echo "$@"; pwd; env | cut -d= -f1 | sort) >${call}; printf '%s' '${text}'`;

  test("asked for the registry alone, on standard input, with no environment of the daemon's", async () => {
    process.env["TB_SECRET"] = "s3cret";
    helper("good", answer('{"ServerURL":"x","Username":"u","Secret":"p"}'));
    const file = authFile({
      credHelpers: { "reg.example": "good", "docker.io": "good" },
      auths: { "reg.example": auth("not", "this") },
    });
    assert.deepEqual(await find("reg.example/team/app", file), basic("u", "p"));
    const said = readFileSync(call, "utf8")
      .split("\n")
      .filter((line) => !["_", "SHLVL"].includes(line));
    assert.deepEqual(said, ["reg.example", "get", "/", "HOME", "PATH", "PWD", ""]);
    await find("docker.io/library/x", file);
    assert.match(readFileSync(call, "utf8"), /^https:\/\/index\.docker\.io\/v1\/\n/);
  });

  test("an identity token; nothing found; the store for all registries last", async () => {
    helper("token", answer('{"Username":"<token>","Secret":"refresh"}'));
    helper("empty", "echo 'credentials not found in native keychain'; exit 1");
    const file = authFile({
      credHelpers: { "a.example": "token", "b.example": "empty" },
      credsStore: "token",
    });
    assert.deepEqual(await find("a.example/x", file), { kind: "identity-token", token: "refresh" });
    assert.deepEqual(await find("c.example/x", file), { kind: "identity-token", token: "refresh" });
    assert.equal(await find("b.example/x", authFile({ credHelpers: { "b.example": "empty" } })), undefined);
  });

  const refused: readonly (readonly [string, string, string, RegExp])[] = [
    ["a name that is a path", "../../bin/sh", "", /"\.\.\/\.\.\/bin\/sh": not a helper's name$/],
    ["none of that name", "missing", "", /docker-credential-missing is not there$/],
    ["exit status 3 and a secret", "fails", "echo s3cret; echo s3cret >&2; exit 3", /exit status 3$/],
    ["no JSON", "text", "echo s3cret", /its answer is not JSON$/],
    ["other JSON", "other", 'echo \'{"Secret":"s3cret"}\'', /has no Username and Secret$/],
    ["an answer without end", "endless", "exec yes s3cret", /no end after 2 s$/],
  ];
  for (const [what, name, script, message] of refused)
    test(`refused: ${what}`, async () => {
      if (script !== "") helper(name, script);
      await assert.rejects(
        find("a.example/x", authFile({ credHelpers: { "a.example": name } })),
        (error: { code: string; message: string }) => {
          assert.equal(error.code, "REGISTRY_AUTH");
          assert.match(error.message, message);
          assert.doesNotMatch(error.message, /s3cret/);
          return true;
        },
      );
    });

  test("without a directory in the configuration no helper is run", async () => {
    helper("good", answer('{"Username":"u","Secret":"p"}'));
    rmSync(call, { force: true });
    const file = authFile({ credsStore: "good" });
    await assert.rejects(findInAuthFiles({ files: [file], helpersDir: "" }, "a.example/x", signal), {
      message: /images\.credential_helpers_dir does not say where helpers are$/,
    });
    assert.equal(existsSync(call), false);
  });
});

describe("who gets them", () => {
  let registry: OwnRegistry;
  let mirror: OwnRegistry;
  const sent = (where: OwnRegistry): string[] =>
    [...new Set(where.authorizations)].map((one) =>
      Buffer.from(one.replace("Basic ", ""), "base64").toString(),
    );
  before(async () => {
    registry = await new OwnRegistry().start();
    mirror = await new OwnRegistry().start();
    for (const one of [registry, mirror])
      one.misbehave = (exchange) =>
        exchange.request.headers.authorization === undefined
          ? void exchange.response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end()
          : void exchange.response.writeHead(404).end("{}");
  });
  after(async () => {
    await registry.stop();
    await mirror.stop();
  });
  beforeEach(() => {
    registry.authorizations.length = 0;
    mirror.authorizations.length = 0;
  });
  const pull = async (
    auths: object,
    mirrors: readonly string[],
    options: PullOptions = {},
  ): Promise<void> => {
    const images = await openImageService({
      root: join(work, `root-${files++}`),
      settings: () => ({
        ...defaultImageSettings,
        registries: new Map([[registry.host, { mirrors }]]),
        auth: { files: [authFile({ auths })], helpersDir: "" },
      }),
      logger: createLogger({ level: "error", format: "text" }),
      patience: { stallMs: 1000, pauseMs: 10 },
    });
    try {
      await assert.rejects(images.pull(`${registry.host}/a/b`, options));
    } finally {
      await images.close();
    }
  };

  test("the registry its own, a mirror its own, by host and path; nobody another's", async () => {
    await pull({ [registry.host]: auth("registry", "1"), [`${mirror.host}/cache`]: auth("mirror", "2") }, [
      `${mirror.url}/cache`,
    ]);
    assert.deepEqual(sent(registry), ["", "registry:1"]);
    assert.deepEqual(sent(mirror), ["", "mirror:2"]);
    mirror.authorizations.length = 0;
    await pull({ [registry.host]: auth("registry", "1") }, [`${mirror.url}/cache`]);
    assert.deepEqual(sent(mirror), [""]);
  });

  test("the request's count before the files', when they are meant for this registry, and never for a mirror", async () => {
    const options: PullOptions = { auth: basic("request", "3"), authServer: "" };
    await pull({ [registry.host]: auth("file", "1") }, [mirror.url], options);
    assert.deepEqual(sent(registry), ["", "request:3"]);
    assert.deepEqual(sent(mirror), [""]);
    registry.authorizations.length = 0;
    await pull({ [registry.host]: auth("file", "1") }, [], {
      ...options,
      authServer: "https://other.example/v1/",
    });
    assert.deepEqual(sent(registry), ["", "file:1"]);
  });
});
