/** Who a container runs as: CRI's security context over the image's USER, names resolved in the image's own files. */
import { TinderboxError } from "../base/errors.ts";
import type { Image } from "../image/contract.ts";
import type { Container, ContainerSecurity } from "./contract.ts";

type Account = { readonly name: string; readonly uid: number; readonly gid: number };

/** A larger number becomes negative, and then root, in some runtimes. */
const maxId = 0x7fff_ffff;

function idOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= maxId ? id : undefined;
}

function accounts(passwd: string): readonly Account[] {
  return passwd.split("\n").flatMap((line) => {
    const [name, , uid, gid] = line.split(":");
    const [u, g] = [idOf(uid), idOf(gid)];
    return name && u !== undefined && g !== undefined ? [{ name, uid: u, gid: g }] : [];
  });
}

function groupsOf(group: string): readonly { name: string; gid: number; members: readonly string[] }[] {
  return group.split("\n").flatMap((line) => {
    const [name, , id, members = ""] = line.split(":");
    const gid = idOf(id);
    return name && gid !== undefined ? [{ name, gid, members: members.split(",") }] : [];
  });
}

function resolveUser(
  image: Image,
  word: string,
  field: string,
): { uid: number; account: Account | undefined } {
  const known = accounts(image.passwd);
  // Digits are a number even when an account is called so: a name must not be able to pass for another user.
  if (/^[+-]?\d+$/.test(word)) {
    const uid = idOf(word);
    if (uid === undefined)
      throw new TinderboxError("INVALID", `${field} ${JSON.stringify(word)}: 0 to ${maxId} is allowed`);
    return { uid, account: known.find((one) => one.uid === uid) };
  }
  const account = known.find((one) => one.name === word);
  if (!account)
    throw new TinderboxError("INVALID", `${field} ${JSON.stringify(word)}: not in the image's /etc/passwd`);
  return { uid: account.uid, account };
}

function resolveGroup(image: Image, word: string): number {
  if (/^[+-]?\d+$/.test(word)) {
    const gid = idOf(word);
    if (gid === undefined)
      throw new TinderboxError(
        "INVALID",
        `image USER group ${JSON.stringify(word)}: 0 to ${maxId} is allowed`,
      );
    return gid;
  }
  const found = groupsOf(image.group).find((one) => one.name === word);
  if (!found)
    throw new TinderboxError(
      "INVALID",
      `image USER group ${JSON.stringify(word)}: not in the image's /etc/group`,
    );
  return found.gid;
}

/** @throws INVALID when a name is unknown or a group is given without a user */
export function resolveContainerUser(image: Image, security: ContainerSecurity): Container["user"] {
  const { runAsUser, runAsUsername, runAsGroup } = security;
  if (runAsGroup !== undefined && runAsUser === undefined && runAsUsername === "") {
    throw new TinderboxError("INVALID", "run_as_group: only together with run_as_user or run_as_username");
  }
  const [imageUser = "", imageGroup = ""] = image.config.user.split(":", 2);
  const fromRequest = runAsUser !== undefined ? String(runAsUser) : runAsUsername;
  const { uid, account } =
    fromRequest !== ""
      ? resolveUser(image, fromRequest, runAsUser !== undefined ? "run_as_user" : "run_as_username")
      : resolveUser(image, imageUser === "" ? "0" : imageUser, "image USER");
  const gid =
    runAsGroup ??
    (fromRequest === "" && imageGroup !== "" ? resolveGroup(image, imageGroup) : (account?.gid ?? 0));
  const merged =
    security.supplementalGroupsPolicy === "merge" && account
      ? groupsOf(image.group)
          .filter((one) => one.members.includes(account.name))
          .map((one) => one.gid)
      : [];
  // The primary group is always among them: a process that drops it must not gain by that (CVE-2022-2995).
  const supplementalGroups = [...new Set([gid, ...security.supplementalGroups, ...merged])];
  return { uid, gid, supplementalGroups };
}
