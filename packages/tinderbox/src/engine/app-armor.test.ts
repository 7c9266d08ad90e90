import assert from "node:assert/strict";
import { test } from "node:test";
import { run } from "../native/run.ts";
import {
  type AppArmorChoice,
  appArmorProfile,
  type DefaultProfile,
  defaultProfileName,
} from "./app-armor.ts";
import { defaultProfileText } from "./app-armor-profile.ts";

const named: AppArmorChoice = { kind: "named", name: "mine" };
const off: DefaultProfile = { kind: "off" };
const loaded: DefaultProfile = { kind: "loaded" };
const missing: DefaultProfile = { kind: "missing", why: "spawn apparmor_parser ENOENT" };

test("appArmorProfile: the runtime's own where none is asked for or the default is, but not where privileged", () => {
  for (const kind of ["unset", "default"] as const) {
    assert.equal(appArmorProfile({ kind }, false, loaded), defaultProfileName);
    assert.equal(appArmorProfile({ kind }, true, loaded), undefined);
    assert.equal(appArmorProfile({ kind }, false, off), undefined);
  }
  assert.equal(appArmorProfile({ kind: "unconfined" }, false, loaded), undefined);
  for (const isPrivileged of [false, true])
    assert.equal(appArmorProfile(named, isPrivileged, loaded), "mine", "one by name is always obeyed");
});

test("appArmorProfile: without the runtime's own, a container that asks for it is refused with the reason", () => {
  assert.equal(appArmorProfile({ kind: "unset" }, false, missing), undefined);
  assert.equal(appArmorProfile(named, false, missing), "mine");
  assert.throws(() => appArmorProfile({ kind: "default" }, false, missing), {
    code: "UNSUPPORTED",
    message: /RuntimeDefault.*tinderbox-default is not loaded.*ENOENT/,
    hint: /apt-get install apparmor/,
  });
});

test("the runtime's own profile is one that AppArmor's compiler takes, by itself", async () => {
  const compile = (text: string): Promise<string> =>
    run("apparmor_parser", ["--skip-kernel-load", "--skip-cache", "--base", "/nonexistent"], { input: text });
  await compile(defaultProfileText(defaultProfileName));
  await assert.rejects(
    compile(defaultProfileText(defaultProfileName).replace("umount", "unmounting")),
    /syntax error/,
  );
});
