/**
 * Brings one file of the host into a directory of the jail. A VMM that was taken over owns the jail's `/` and may put
 * links into it, so nothing here goes by a path through the jail: the directory is opened without following links, has
 * to be ours, and the file is made by name in that open directory.
 */
import { constants } from "node:fs";
import { chmod, chown, type FileHandle, lchown, link, mkdir, open, rm, writeFile } from "node:fs/promises";
import { HostCommandError, runHostCommand } from "../host-command.ts";
import { FirecrackerJailerError } from "./jailer-error.ts";
import type { StagingAccess, StagingMethod } from "./staging-plan.ts";

const codeOf = (cause: unknown): string =>
  cause instanceof Error && "code" in cause ? String(cause.code) : "";

const openFlags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** By the open directory itself, for this process and for programs it starts. */
export const nameIn = (directory: FileHandle, name: string): string =>
  `/proc/${process.pid}/fd/${directory.fd}/${name}`;

/**
 * Opens `<root>/a/b` without following links, making what is missing; the caller closes it.
 * @throws {FirecrackerJailerError} FC_JAILER when one on the way is no directory, or the last is asked to be `ours` and can be changed by others
 */
export async function openJailDirectory(
  root: string,
  parts: readonly string[],
  whose: "ours" | "anyone's",
): Promise<FileHandle> {
  let directory = await open(root, openFlags);
  try {
    for (const part of parts) {
      const path = nameIn(directory, part);
      await mkdir(path, 0o755).catch((cause: unknown) => {
        if (codeOf(cause) !== "EEXIST") throw cause;
      });
      const next = await open(path, openFlags).catch((cause: unknown) => {
        throw new FirecrackerJailerError(
          "as",
          `/${parts.join("/")}: not a directory of ours in the jail`,
          cause,
        );
      });
      await directory.close();
      directory = next;
    }
    const facts = await directory.stat();
    if (whose === "ours" && (facts.uid !== process.geteuid?.() || (facts.mode & 0o022) !== 0))
      throw new FirecrackerJailerError(
        "as",
        `/${parts.join("/")} can be changed from inside the jail, so nothing may be staged in it now`,
      );
    return directory;
  } catch (cause) {
    await directory.close();
    throw cause;
  }
}

export type StagingStep = {
  readonly source: string;
  readonly directory: FileHandle;
  readonly name: string;
  readonly access: StagingAccess;
  readonly uid: number;
  readonly gid: number;
  /** Of a block device */
  readonly rdev: number;
  readonly signal: AbortSignal | undefined;
};

async function bindMount(step: StagingStep): Promise<void> {
  const target = nameIn(step.directory, step.name);
  // The mount point must be a file, and a new one.
  await writeFile(target, "", { flag: "wx", mode: 0o600 });
  try {
    // -c: the kernel resolves the names, and stops at the open directory.
    const options = step.access === "ro" ? "bind,ro,nosuid" : "bind,nosuid";
    await runHostCommand("mount", ["-c", "-n", "-o", options, step.source, target], step.signal);
  } catch (cause) {
    await rm(target, { force: true });
    throw cause;
  }
}

async function copy(step: StagingStep): Promise<void> {
  const target = nameIn(step.directory, step.name);
  // Opened by us first, so that a name that is taken is refused and never written to.
  await writeFile(target, "", { flag: "wx", mode: 0o600 });
  try {
    // cp, not copyFile: it keeps the holes of a sparse disk image, and shares blocks where the file system can.
    const args = ["--reflink=auto", "--sparse=auto", "--no-target-directory", "--", step.source, target];
    await runHostCommand("cp", args, step.signal);
    await chown(target, step.uid, step.gid);
    await chmod(target, step.access === "ro" ? 0o400 : 0o600);
  } catch (cause) {
    await rm(target, { force: true });
    throw cause;
  }
}

/** Device numbers as mknod(1) wants them. */
const majorOf = (rdev: number): number => Math.floor(rdev / 256) % 4096;
const minorOf = (rdev: number): number => (rdev % 256) + Math.floor(rdev / 2 ** 20) * 256;

async function deviceNode(step: StagingStep): Promise<void> {
  const target = nameIn(step.directory, step.name);
  const numbers = [String(majorOf(step.rdev)), String(minorOf(step.rdev))];
  const mode = step.access === "ro" ? "0400" : "0600";
  await runHostCommand("mknod", ["-m", mode, "--", target, "b", ...numbers], step.signal);
  await lchown(target, step.uid, step.gid);
}

/** Carries one method out. Rejects with the system's error, or EEXIST when the name is taken. */
async function stageBy(method: StagingMethod, step: StagingStep): Promise<void> {
  switch (method) {
    case "link":
      return await link(step.source, nameIn(step.directory, step.name));
    case "bind":
      return await bindMount(step);
    case "copy":
      return await copy(step);
    case "node":
      return await deviceNode(step);
  }
}

/** The first method of `methods` that works here. @throws {FirecrackerJailerError} FC_JAILER when none does, or the name is taken */
export async function stageFile(
  methods: readonly StagingMethod[],
  step: StagingStep,
): Promise<StagingMethod> {
  const faults: unknown[] = [];
  for (const method of methods) {
    step.signal?.throwIfAborted();
    try {
      await stageBy(method, step);
      return method;
    } catch (cause) {
      if (step.signal?.aborted) throw step.signal.reason;
      if (codeOf(cause) === "EEXIST")
        throw new FirecrackerJailerError(
          "as",
          `there is a file named ${step.name} already in the jail`,
          cause,
        );
      faults.push(cause);
    }
  }
  const texts = faults.map((fault, index) => {
    const text = fault instanceof HostCommandError || fault instanceof Error ? fault.message : String(fault);
    return `${methods[index]}: ${text}`;
  });
  throw new FirecrackerJailerError(
    "hostPath",
    `${step.source} cannot be brought into the jail by ${texts.join("; ")}`,
    new AggregateError(faults),
  );
}
