// A program starts a microVM and is killed. Another finds it by the journal, goes on with it, and leaves nothing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { openSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { adoptMachine, launchMachine, MachineJournal } from "@tinderbox/firecracker";
import { flags, guestConfiguration, launchOptions, main, patience, workDirectory } from "./guest.ts";

/** The first program: writes the machine down before it starts it, and is killed while it runs. */
async function owner(directory: string): Promise<void> {
  const machine = await launchMachine({
    ...launchOptions(directory, "orphan"),
    serialInput: false,
    // Not a pipe: a VMM that outlives its owner must not write into a broken one.
    outputFd: openSync(join(directory, "console"), "a"),
    journal: new MachineJournal(join(directory, "journal")),
    signal: patience(),
  });
  const vsock = { guest_cid: 3, uds_path: join(directory, "v.sock") };
  await machine.configure(guestConfiguration(directory, { vsock }));
  const running = await machine.start({ signal: patience() });
  console.log(`owner: started pid ${running.identity.pid}, and is killed now`);
  process.kill(process.pid, "SIGKILL");
}

await main(async () => {
  if (flags.owner !== undefined) return await owner(flags.owner);
  using work = workDirectory();
  const args = [...process.execArgv, import.meta.filename, "--owner", work.path, ...process.argv.slice(2)];
  const first = spawn(process.execPath, args, { stdio: "inherit" });
  const [, signal] = await once(first, "exit");
  if (signal !== "SIGKILL") throw new Error("the owner was to be killed");

  const { live, cleaned, failed } = await new MachineJournal(join(work.path, "journal")).recover();
  console.log(`the journal has ${live.length} alive, ${cleaned.length} dead, ${failed.length} unknown`);
  for (const record of live) {
    const machine = await adoptMachine(record);
    if (machine.phase !== "running") throw new Error(`it is ${machine.phase}`);
    const stream = await machine.dialVsock(52, { signal: patience(), retry: {} });
    stream.write("still there?");
    const [answer] = await machine.whileAlive(once(stream, "data"));
    console.log(`pid ${machine.identity.pid} answers: ${answer}`);
    stream.destroy();
    await machine.kill();
  }
  const left = readdirSync(work.path).filter(
    (name) => !["console", "initramfs.img", "journal"].includes(name),
  );
  console.log(`left of it: ${[...left, ...readdirSync(join(work.path, "journal"))].join(" ") || "nothing"}`);
});
