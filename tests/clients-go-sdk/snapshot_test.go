package sdk

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
)

// Snapshot of a running machine; it lives on; when it is gone, a second VMM goes on where the snapshot was made.
func snapshot(ctx context.Context, t *testing.T, m *machine, cfg firecracker.Config) {
	state, memory := filepath.Join(m.directory, "state"), filepath.Join(m.directory, "memory")
	if err := m.CreateSnapshot(ctx, memory, state); err == nil {
		t.Error("a snapshot was made of a running machine")
	}
	must(t, m.PauseVM(ctx))
	must(t, m.CreateSnapshot(ctx, memory, state))
	must(t, m.ResumeVM(ctx))
	m.ask(t, "remember", "colour", "red")
	m.stop()
	// Firecracker itself leaves it.
	must(t, os.RemoveAll(m.vsockPath))

	restored := configuration(t)
	restored.NetNS = cfg.NetNS
	// The SDK would add what the snapshot has already.
	restored.VsockDevices = nil
	for _, isResumed := range []bool{true, false} {
		second := newMachine(ctx, t, restored, firecracker.WithSnapshot(memory, state,
			func(config *firecracker.SnapshotConfig) { config.ResumeVM = isResumed }))
		second.vsockPath = m.vsockPath
		second.start(ctx)
		info, err := second.DescribeInstanceInfo(ctx)
		must(t, err)
		if !isResumed {
			equal(t, "state", *info.State, models.InstanceInfoStatePaused)
			must(t, second.ResumeVM(ctx))
		} else {
			equal(t, "state", *info.State, models.InstanceInfoStateRunning)
		}
		// The restored guest ends all connections it knows: one that is too early is among them.
		eventually(t, "the restored guest answers", func() bool {
			_, err := second.try(ctx, "read", "/proc/uptime")
			return err == nil
		})
		equal(t, "colour", second.ask(t, "recall", "colour"), "green")
		equal(t, "vda", second.ask(t, "device", "/dev/vda", 14), "the data drive")
		equal(t, "MAC", second.ask(t, "mac", "eth0"), "06:00:0a:09:00:02")
		second.ask(t, "remember", "colour", "blue")
		second.stop()
		must(t, os.RemoveAll(second.vsockPath))
	}
}
