/* File capabilities: `set FILE` gives it cap_net_bind_service, `get FILE` prints the attribute's words and size, `mine` the effective ones. */
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char name[] = "security.capability";

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "set") == 0) {
    struct vfs_cap_data data = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1u << CAP_NET_BIND_SERVICE, 0}}};
    if (setxattr(argv[2], name, &data, sizeof data, 0) == 0) return 0;
    perror(argv[2]);
    return 1;
  }
  if (argc == 3 && strcmp(argv[1], "get") == 0) {
    unsigned int words[16] = {0};
    ssize_t size = getxattr(argv[2], name, words, sizeof words);
    if (size < 0) {
      perror(argv[2]);
      return 1;
    }
    printf("%zd %x %x %u\n", size, words[0], words[1], size > 20 ? words[5] : 0);
    return 0;
  }
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct mine[2];
  if (syscall(SYS_capget, &header, mine) != 0) return 1;
  printf("%x\n", mine[0].effective);
  return 0;
}
