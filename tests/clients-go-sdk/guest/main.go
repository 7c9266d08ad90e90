// The guest of the SDK's tests: /init of a microVM. It loads the kernel's modules, sets up what the kernel's `ip=` asks
// for, tells the host that it is there, and then answers one line of text with one line, on vsock port 52.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"

	sdkvsock "github.com/firecracker-microvm/firecracker-go-sdk/vsock"
	"github.com/mdlayher/vsock"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	commandPort = 52
	helloPort   = 53
)

func must(err error) {
	if err != nil {
		log.Print("guest: ", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func mounts() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return nil
}

// A kernel with everything built in refuses the modules of another: its devices are there all the same.
func loadModules() {
	list, _ := os.ReadFile("/etc/tinderbox/modules")
	for _, path := range strings.Fields(string(list)) {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		unix.FinitModule(int(file.Fd()), "", 0)
		file.Close()
	}
}

// ip=CLIENT:SERVER:GATEWAY:NETMASK:... as the kernel's own set-up takes it, which distributions build without.
func setUpNetwork() error {
	commandLine, _ := os.ReadFile("/proc/cmdline")
	for _, argument := range strings.Fields(string(commandLine)) {
		value, found := strings.CutPrefix(argument, "ip=")
		if !found {
			continue
		}
		fields := strings.Split(value, ":")
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		mask := net.IPMask(net.ParseIP(fields[3]).To4())
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(fields[0]), Mask: mask}}
		if err := netlink.AddrReplace(link, address); err != nil {
			return err
		}
		// The metadata service is a neighbour on the link.
		_, linkLocal, _ := net.ParseCIDR("169.254.0.0/16")
		index := link.Attrs().Index
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: linkLocal, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: index, Gw: net.ParseIP(fields[2])})
	}
	return nil
}

// Ctrl-Alt-Del comes as SIGINT instead of restarting the machine by the kernel itself: then it is known that it came here.
func restartOnCtrlAltDel() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT)
	go func() {
		<-interrupts
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
}

func serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return
	}
	if words[0] == "echo" {
		echo(reader, conn, words[1:])
		return
	}
	answer, err := obey(words[0], words[1:])
	if err != nil {
		fmt.Fprintf(conn, "ERR %q\n", err.Error())
		return
	}
	fmt.Fprintf(conn, "OK %q\n", answer)
}

func main() {
	must(mounts())
	loadModules()
	must(setUpNetwork())
	restartOnCtrlAltDel()
	listener, err := sdkvsock.Listener(context.Background(), logrus.NewEntry(logrus.New()), commandPort)
	must(err)
	// Nobody listens on the host after a restore, or when a test does not want to know.
	if hello, err := vsock.Dial(vsock.Host, helloPort, nil); err == nil {
		fmt.Fprintln(hello, "hello")
		hello.Close()
	}
	for {
		// The SDK's Accept gives up after a while without a call.
		if conn, err := listener.Accept(); err == nil {
			go serve(conn)
		}
	}
}
