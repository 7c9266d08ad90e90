package sdk

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/firecracker-microvm/firecracker-go-sdk/vsock"
	"github.com/sirupsen/logrus"
)

// One machine with drives, vsock, a log and metrics by FIFO, from its boot to its guest's restart.
func TestLife(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := configuration(t)
	directory := filepath.Dir(cfg.SocketPath)
	cfg.VMID = "sdk-life"
	root := newDrive(t, &cfg, "root", "the root drive")
	root.IsRootDevice, root.IsReadOnly = firecracker.Bool(true), firecracker.Bool(false)
	// The root drive comes first, whatever its place.
	cfg.Drives = []models.Drive{newDrive(t, &cfg, "data", "the data drive"), root}
	logged := &output{}
	cfg.LogFifo, cfg.LogLevel, cfg.FifoLogWriter = filepath.Join(directory, "log.fifo"), "Debug", logged
	cfg.MetricsFifo = filepath.Join(directory, "metrics.fifo")
	m := newMachine(ctx, t, cfg)
	m.boot(ctx)

	t.Run("information", func(t *testing.T) {
		info, err := m.DescribeInstanceInfo(ctx)
		must(t, err)
		equal(t, "id", *info.ID, "sdk-life")
		equal(t, "state", *info.State, models.InstanceInfoStateRunning)
		equal(t, "name", *info.AppName, "Firecracker")
		version, err := m.GetFirecrackerVersion(ctx)
		must(t, err)
		equal(t, "version", version, *info.VmmVersion)
		pid, err := m.PID()
		must(t, err)
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			t.Error(err)
		}
		equal(t, "a second start", m.Start(ctx), firecracker.ErrAlreadyStarted)
	})

	t.Run("machine configuration and kernel arguments", func(t *testing.T) {
		client := firecracker.NewClient(cfg.SocketPath, logrus.NewEntry(logrus.New()), false)
		config, err := client.GetMachineConfiguration()
		must(t, err)
		equal(t, "processors", *config.Payload.VcpuCount, 1)
		equal(t, "MiB", *config.Payload.MemSizeMib, 256)
		whole, err := client.GetExportVMConfig()
		must(t, err)
		equal(t, "drives", len(whole.Payload.Drives), 2)
		arguments := m.ask(t, "read", "/proc/cmdline")
		for _, argument := range []string{"root=/dev/vda", "rw", "reboot=k", "panic=-1"} {
			if !strings.Contains(" "+arguments+" ", " "+argument+" ") {
				t.Errorf("no %s in %q", argument, arguments)
			}
		}
	})

	t.Run("drives", func(t *testing.T) {
		equal(t, "vda", m.ask(t, "device", "/dev/vda", 14), "the root drive")
		equal(t, "vdb", m.ask(t, "device", "/dev/vdb", 14), "the data drive")
		equal(t, "vdb's sectors", m.ask(t, "read", "/sys/block/vdb/size"), "2048")
		m.ask(t, "write", "/dev/vda", "by-the-guest")
		written, err := os.ReadFile(filepath.Join(directory, "root.img"))
		must(t, err)
		equal(t, "the root file", string(written[:12]), "by-the-guest")
		if _, err := m.try(ctx, "write", "/dev/vdb", "x"); err == nil {
			t.Error("the guest wrote on a read-only drive")
		}
	})

	t.Run("UpdateGuestDrive", func(t *testing.T) {
		path := filepath.Join(directory, "other.img")
		newFile(t, path, "another file", 3<<20)
		must(t, m.UpdateGuestDrive(ctx, "data", path))
		eventually(t, "the guest sees the new size", func() bool { return m.ask(t, "read", "/sys/block/vdb/size") == "6144" })
		equal(t, "vdb", m.ask(t, "device", "/dev/vdb", 12), "another file")
		err := m.UpdateGuestDrive(ctx, "nope", path)
		if err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("an unknown drive: %v", err)
		}
		must(t, m.UpdateGuestDrive(ctx, "data", filepath.Join(directory, "data.img")))
	})

	t.Run("vsock: the guest calls", func(t *testing.T) {
		listener, err := net.Listen("unix", m.vsockPath+"_1234")
		must(t, err)
		defer listener.Close()
		m.ask(t, "dial", 1234, "I-am-here")
		conn, err := listener.Accept()
		must(t, err)
		defer conn.Close()
		line, err := bufio.NewReader(conn).ReadString('\n')
		must(t, err)
		equal(t, "what the guest said", line, "I-am-here\n")
		if _, err := m.try(ctx, "dial", 1235, "x"); err == nil {
			t.Error("the guest reached a port where nobody listens")
		}
	})

	t.Run("vsock: many calls at once, and every byte comes back", func(t *testing.T) { echoes(t, m, 16, 256<<10) })

	t.Run("vsock: a port where nobody listens is refused", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if conn, err := vsock.DialContext(short, m.vsockPath, 4444); err == nil {
			conn.Close()
			t.Error("somebody answered")
		}
	})

	t.Run("PauseVM and ResumeVM", func(t *testing.T) {
		must(t, m.PauseVM(ctx))
		must(t, m.PauseVM(ctx))
		info, err := m.DescribeInstanceInfo(ctx)
		must(t, err)
		equal(t, "state", *info.State, models.InstanceInfoStatePaused)
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if _, err := m.try(short, "read", "/proc/uptime"); err == nil {
			t.Error("a paused guest answered")
		}
		must(t, m.ResumeVM(ctx))
		m.ask(t, "read", "/proc/uptime")
	})

	t.Run("log and metrics", func(t *testing.T) {
		if !strings.Contains(logged.String(), "InstanceStart") && !strings.Contains(logged.String(), "/actions") {
			t.Errorf("the log says nothing of the start: %q", logged)
		}
		metrics, err := os.Open(cfg.MetricsFifo)
		must(t, err)
		defer metrics.Close()
		client := firecracker.NewClient(cfg.SocketPath, logrus.NewEntry(logrus.New()), false)
		flush := models.InstanceActionInfoActionTypeFlushMetrics
		_, err = client.CreateSyncAction(ctx, &models.InstanceActionInfo{ActionType: &flush})
		must(t, err)
		line, err := bufio.NewReader(metrics).ReadString('\n')
		must(t, err)
		if !strings.Contains(line, `"utc_timestamp_ms"`) || !strings.Contains(line, `"block"`) {
			t.Errorf("no metrics: %.300q", line)
		}
	})

	t.Run("Shutdown", func(t *testing.T) {
		must(t, m.Shutdown(ctx))
		wait, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		must(t, m.Wait(wait))
		if _, err := m.PID(); err == nil {
			t.Error("it has ended, and has a PID")
		}
		if _, err := os.Stat(cfg.SocketPath); !os.IsNotExist(err) {
			t.Errorf("the API socket is there: %v", err)
		}
	})
}

// `calls` connections at once, each of which gets `size` random bytes back.
func echoes(t *testing.T, m *machine, calls, size int) {
	var all sync.WaitGroup
	for range calls {
		all.Add(1)
		go func() {
			defer all.Done()
			conn, err := vsock.Dial(m.vsockPath, commandPort)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(limit))
			sent, received := make([]byte, size), make([]byte, size)
			rand.Read(sent)
			go func() {
				fmt.Fprintln(conn, "echo", size)
				conn.Write(sent)
			}()
			if _, err := io.ReadFull(conn, received); err != nil {
				t.Error(err)
			} else if string(sent) != string(received) {
				t.Error("other bytes came back")
			}
		}()
	}
	all.Wait()
}

// A VMM that is told to end, whose context ends, or which is configured wrongly, is gone.
func TestEnds(t *testing.T) {
	ends := func(t *testing.T, end func(m *machine, cancel func())) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		m := newMachine(ctx, t, configuration(t))
		m.start(ctx)
		end(m, cancel)
		wait, cancelWait := context.WithTimeout(context.Background(), limit)
		defer cancelWait()
		m.Wait(wait)
		must(t, wait.Err())
	}
	t.Run("StopVMM", func(t *testing.T) {
		ends(t, func(m *machine, _ func()) { must(t, m.StopVMM()) })
	})
	t.Run("the context's end", func(t *testing.T) {
		ends(t, func(_ *machine, cancel func()) { cancel() })
	})
	t.Run("a refusal says why", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cfg := configuration(t)
		drive := newDrive(t, &cfg, "gone", "")
		must(t, os.Remove(*drive.PathOnHost))
		cfg.Drives = []models.Drive{drive}
		m := newMachine(ctx, t, cfg)
		err := m.Start(ctx)
		t.Cleanup(m.stop)
		if err == nil || !strings.Contains(err.Error(), "No such file or directory") {
			t.Errorf("a drive without a file: %v", err)
		}
	})
}
