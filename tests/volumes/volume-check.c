/* What a volume is held against: the same program runs on a plain directory of the host and on a volume in a guest, and
 * both must print the same lines.
 *   volume-check battery DIR             system calls one by one, with their results
 *   volume-check random DIR SEED COUNT   random operations of one seed
 *   volume-check bench DIR               MB/s and operations/s (for people)
 *   volume-check list DIR                how many entries it has, and a sum of their names' bytes
 *   volume-check lock FILE               takes a POSIX and a flock lock, says so, holds them until it is killed
 *   volume-check locked FILE             what taking each of them gives
 *   volume-check watch FILE GO SAID      keeps FILE open and mapped; for each writer of the pipe GO, what it holds goes to the pipe SAID
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static uint64_t hash(const void *data, size_t size, uint64_t state) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++) state = (state ^ bytes[i]) * 1099511628211ull;
  return state;
}

static const char *name_of(long result) {
  static char text[64];
  if (result >= 0) snprintf(text, sizeof text, "%ld", result);
  else snprintf(text, sizeof text, "%s", strerrorname_np(errno));
  return text;
}

/* A line for the value of a call: the number, or the name of its error. */
static long say(const char *what, long result) {
  int saved = errno;
  printf("%s: %s\n", what, name_of(result));
  errno = saved;
  return result;
}

static int make(const char *path, int mode) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, mode);
  if (fd >= 0) close(fd);
  return fd < 0 ? -1 : 0;
}

static void describe(const char *path) {
  struct stat st;
  if (lstat(path, &st) < 0) { printf("stat %s: %s\n", path, strerrorname_np(errno)); return; }
  printf("stat %s: mode %o uid %u gid %u nlink %lu size %ld\n", path, st.st_mode, st.st_uid, st.st_gid,
         (unsigned long)(S_ISDIR(st.st_mode) ? 0 : st.st_nlink), S_ISDIR(st.st_mode) ? 0L : (long)st.st_size);
}

/* Runs `body` as another user in a child; its lines are ours. */
static void as_user(uid_t uid, gid_t gid, gid_t extra, void (*body)(void)) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    if (setgroups(extra ? 1 : 0, &extra) || setgid(gid) || setuid(uid)) { puts("cannot become another user"); exit(1); }
    body();
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, NULL, 0);
}

static void basics(void) {
  say("create", make("a", 0644));
  say("create again", make("a", 0644));
  say("open missing", open("missing", O_RDONLY));
  say("open below a file", open("a/b", O_RDONLY));
  say("directory expected", open("a", O_RDONLY | O_DIRECTORY));
  say("mkdir", mkdir("d", 0755));
  say("mkdir again", mkdir("d", 0755));
  say("mkdir below missing", mkdir("x/y", 0755));
  say("unlink directory", unlink("d"));
  say("rmdir file", rmdir("a"));
  say("create in d", make("d/f", 0600));
  say("rmdir full", rmdir("d"));
  char name[300];
  memset(name, 'n', sizeof name);
  name[256] = 0;
  say("name of 256", make(name, 0644));
  name[255] = 0;
  say("name of 255", make(name, 0644));
  say("unlink it", unlink(name));
  say("open directory for writing", open("d", O_RDWR));
  say("rename file over directory", rename("a", "d"));
  say("rename directory over file", rename("d", "a"));
  say("mkdir e", mkdir("e", 0700));
  say("rename over full directory", rename("e", "d"));
  say("rename over empty directory", rename("d", "e"));
  say("rename into itself", rename("e", "e/sub"));
  say("rename missing", rename("missing", "b"));
  say("rename back", rename("e", "d"));
  describe("a"); describe("d"); describe("d/f"); describe("e");
  umask(027);
  say("umask create", make("masked", 0666));
  say("umask mkdir", mkdir("masked-d", 0777));
  umask(022);
  describe("masked"); describe("masked-d");
  int fd = open("a", O_RDWR);
  say("write", write(fd, "hello world", 11));
  say("pread", pread(fd, name, 5, 6));
  printf("read %.5s\n", name);
  say("truncating open", open("a", O_WRONLY | O_TRUNC));
  describe("a");
  say("write to a read-only descriptor", write(open("a", O_RDONLY), "x", 1));
  int one = open("a", O_WRONLY | O_APPEND), two = open("a", O_WRONLY | O_APPEND);
  for (int i = 0; i < 3; i++) { (void)!write(one, "1", 1); (void)!write(two, "22", 2); }
  say("after appends", pread(fd, name, 100, 0));
  printf("read %.9s\n", name);
  say("cwd", chdir("d"));
  say("renamed below us", rename("../d", "../dd"));
  char *cwd = getcwd(name, sizeof name);
  printf("cwd ends in %s\n", cwd ? strrchr(cwd, '/') : "nothing");
  say("up", chdir(".."));
  say("rename back", rename("dd", "d"));
}

static void links(void) {
  char text[64] = {0};
  say("hard link", link("a", "a2"));
  say("hard link again", link("a", "a2"));
  say("hard link of a directory", link("d", "d2"));
  say("hard link into d", link("a", "d/a3"));
  describe("a");
  struct stat first, second;
  stat("a", &first); stat("d/a3", &second);
  printf("same inode: %d\n", first.st_ino == second.st_ino && first.st_dev == second.st_dev);
  say("symlink", symlink("a", "s"));
  say("symlink again", symlink("a", "s"));
  say("readlink", readlink("s", text, sizeof text));
  printf("target %s\n", text);
  say("nofollow", open("s", O_RDONLY | O_NOFOLLOW));
  say("follow", open("s", O_RDONLY) < 0 ? -1 : 0);
  say("loop 1", symlink("l2", "l1"));
  say("loop 2", symlink("l1", "l2"));
  say("open loop", open("l1", O_RDONLY));
  say("dangling", symlink("nowhere", "dangling"));
  say("open dangling", open("dangling", O_RDONLY));
  say("create through dangling", make("dangling", 0644));
  say("upwards", symlink("../d/../a", "d/up"));
  say("open upwards", open("d/up", O_RDONLY) < 0 ? -1 : 0);
  say("chown a link", lchown("s", 7, 8));
  describe("s"); describe("a");
  say("noreplace", renameat2(AT_FDCWD, "a2", AT_FDCWD, "masked", RENAME_NOREPLACE));
  say("exchange", renameat2(AT_FDCWD, "d", AT_FDCWD, "masked", RENAME_EXCHANGE));
  describe("d"); describe("masked");
  say("exchange back", renameat2(AT_FDCWD, "d", AT_FDCWD, "masked", RENAME_EXCHANGE));
  say("unlink", unlink("a2"));
  describe("a");
  int fd = open("a", O_RDWR);
  unlink("a"); unlink("d/a3");
  say("open file has no name", open("a", O_RDONLY));
  struct stat st;
  fstat(fd, &st);
  printf("nlink %lu\n", (unsigned long)st.st_nlink);
  say("write", pwrite(fd, "still", 5, 0));
  say("read", pread(fd, text, 5, 0));
  printf("read %.5s\n", text);
  say("truncate", ftruncate(fd, 2));
  say("chmod", fchmod(fd, 0600));
  fstat(fd, &st);
  printf("size %ld mode %o\n", (long)st.st_size, st.st_mode);
}

static void user_body(void) {
  say("user reads 0600 of root", open("secret", O_RDONLY));
  say("user access W", access("secret", W_OK));
  say("user access R of 0644", access("public", R_OK));
  say("user chmods another's", chmod("public", 0666));
  say("user chowns", chown("public", 1000, 1000));
  say("user unlinks in root's directory", unlink("locked/x"));
  say("user unlinks another's in sticky", unlink("sticky/x"));
  say("user renames another's in sticky", rename("sticky/x", "sticky/y"));
  say("user makes in sticky", make("sticky/mine", 0644));
  say("user makes a directory in sticky", mkdir("sticky/mine-d", 0755));
  say("user links in sticky", symlink("anything", "sticky/mine-l"));
  say("user unlinks own", unlink("sticky/mine-l"));
  say("user makes by group", make("group/by-group", 0664));
  say("user makes in setgid", make("setgid/file", 0664));
  say("user makes a directory in setgid", mkdir("setgid/dir", 0775));
  int fd = open("suid", O_WRONLY);
  say("user writes a setuid file", write(fd, "x", 1));
  say("user sets time of another's", utimensat(AT_FDCWD, "public", NULL, 0));
  say("user truncates another's", truncate("public", 0));
  describe("sticky/mine"); describe("sticky/mine-d"); describe("group/by-group"); describe("setgid/file"); describe("setgid/dir");
}

static void owners(void) {
  say("make", make("secret", 0600)); make("public", 0644); make("suid", 0666);
  say("chmod suid", chmod("suid", 06777));
  mkdir("locked", 0755); make("locked/x", 0666);
  mkdir("sticky", 0777); chmod("sticky", 01777); make("sticky/x", 0666);
  mkdir("group", 0770); chmod("group", 0770); say("chown group", chown("group", 0, 2000));
  mkdir("setgid", 0777); chown("setgid", 0, 3000); chmod("setgid", 02777);
  as_user(1000, 1000, 2000, user_body);
  describe("suid");
  say("chown", chown("public", 12345, 54321));
  describe("public");
  say("chown suid", chmod("suid", 06755) | chown("suid", 5, 6));
  describe("suid");
  struct timespec times[2] = {{1000000000, 123456789}, {0, UTIME_OMIT}};
  struct stat before, after;
  stat("public", &before);
  say("utimens", utimensat(AT_FDCWD, "public", times, 0));
  stat("public", &after);
  printf("atime %ld.%ld mtime kept %d\n", (long)after.st_atim.tv_sec, after.st_atim.tv_nsec,
         before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_mtim.tv_sec == after.st_mtim.tv_sec);
}

static void data(void) {
  int fd = open("big", O_RDWR | O_CREAT, 0644);
  size_t size = 3 << 20;
  unsigned char *bytes = malloc(size), *back = malloc(size);
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(i * 2654435761u >> 24);
  say("write 3 MiB", write(fd, bytes, size));
  say("fsync", fsync(fd));
  say("fdatasync", fdatasync(fd));
  say("read 3 MiB", pread(fd, back, size, 0));
  printf("same: %d\n", memcmp(bytes, back, size) == 0);
  say("odd read", pread(fd, back, 12345, 1048570));
  printf("same: %d\n", memcmp(bytes + 1048570, back, 12345) == 0);
  say("read at the end", pread(fd, back, 100, size));
  say("negative offset", pread(fd, back, 1, -1));
  int sparse = open("sparse", O_RDWR | O_CREAT, 0644);
  say("write far", pwrite(sparse, "end", 3, 64 << 20));
  struct stat st;
  fstat(sparse, &st);
  printf("size %ld, sparse %d\n", (long)st.st_size, st.st_blocks * 512 < (1 << 20));
  say("data", lseek(sparse, 0, SEEK_DATA));
  say("hole", lseek(sparse, 0, SEEK_HOLE));
  say("data at the end", lseek(sparse, st.st_size, SEEK_DATA));
  say("hole read", pread(sparse, back, 4096, 1 << 20));
  printf("zeros %d\n", back[0] == 0 && memcmp(back, back + 1, 4095) == 0);
  say("shrink", ftruncate(sparse, 100));
  say("grow", ftruncate(sparse, 1000000));
  say("preallocate", fallocate(sparse, FALLOC_FL_KEEP_SIZE, 0, 2 << 20));
  say("allocate", fallocate(sparse, 0, 0, 2 << 20));
  say("punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
  say("read punched", pread(fd, back, 20000, 0));
  printf("hash %016lx\n", (unsigned long)hash(back, 20000, 1));
  fstat(sparse, &st);
  printf("size %ld\n", (long)st.st_size);
  int copy = open("copy", O_RDWR | O_CREAT, 0644);
  off_t from = 0, to = 0;
  say("copy_file_range", copy_file_range(fd, &from, copy, &to, 100000, 0));
  from = 100000; lseek(copy, 100000, SEEK_SET);
  say("sendfile", sendfile(copy, fd, &from, 50000));
  pread(copy, back, 150000, 0); pread(fd, bytes, 150000, 0);
  printf("same: %d\n", memcmp(bytes, back, 150000) == 0);
  /* Shared mappings: two processes and a descriptor. */
  ftruncate(copy, 65536);
  unsigned char *map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
  say("mmap", map == MAP_FAILED ? -1 : 0);
  if (map != MAP_FAILED) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      int other = open("copy", O_RDWR);
      unsigned char *theirs = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
      memcpy(theirs + 5000, "from the child", 14);
      _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("mapped %.14s\n", map + 5000);
    pread(copy, back, 14, 5000);
    printf("read %.14s\n", back);
    pwrite(copy, "by descriptor", 13, 9000);
    printf("mapped %.13s\n", map + 9000);
    say("msync", msync(map, 65536, MS_SYNC));
    munmap(map, 65536);
  }
  struct statvfs fs;
  say("statvfs", statvfs(".", &fs));
  printf("namemax %lu\n", fs.f_namemax);
}

static void attributes(void) {
  char value[256] = {0};
  make("x", 0644);
  say("set", setxattr("x", "user.one", "value", 5, 0));
  say("create again", setxattr("x", "user.one", "v", 1, XATTR_CREATE));
  say("replace missing", setxattr("x", "user.two", "v", 1, XATTR_REPLACE));
  say("empty", setxattr("x", "user.empty", "", 0, 0));
  say("size", getxattr("x", "user.one", NULL, 0));
  say("too small", getxattr("x", "user.one", value, 2));
  say("get", getxattr("x", "user.one", value, sizeof value));
  printf("value %.5s\n", value);
  say("get missing", getxattr("x", "user.none", value, sizeof value));
  ssize_t size = listxattr("x", value, sizeof value);
  int users = 0;
  for (char *at = value; size > 0 && at < value + size; at += strlen(at) + 1) users += strncmp(at, "user.", 5) == 0;
  printf("user attributes %d\n", users);
  say("remove", removexattr("x", "user.one"));
  say("remove again", removexattr("x", "user.one"));
  say("on a symlink", lsetxattr("s", "user.one", "v", 1, 0));
  say("on a directory", setxattr("d", "user.one", "v", 1, 0));
}

static void directories(void) {
  char name[300];
  mkdir("many", 0755);
  int failures = 0;
  for (int i = 0; i < 1000; i++) {
    snprintf(name, sizeof name, "many/entry-with-a-name-%d", i);
    failures += mknod(name, S_IFREG | 0644, 0) != 0;
  }
  printf("failures %d\n", failures);
  for (int round = 0; round < 2; round++) {
    DIR *dir = opendir("many");
    struct dirent *entry;
    long count = 0, sum = 0, types = 0;
    while ((entry = readdir(dir))) {
      if (entry->d_name[0] == '.') continue;
      count++; sum += atol(entry->d_name + 18); types += entry->d_type == DT_REG;
      if (round && count % 2) { snprintf(name, sizeof name, "many/%s", entry->d_name); unlink(name); }
    }
    closedir(dir);
    printf("entries %ld sum %ld regular %ld\n", count, sum, types);
  }
  DIR *dir = opendir("many");
  long left = 0;
  while (readdir(dir)) left++;
  closedir(dir);
  printf("left %ld\n", left);
  /* The directory itself and the one above, and places to come back to. */
  dir = opendir("many");
  long dots = 0, place = 0, after = 0;
  for (struct dirent *entry; (entry = readdir(dir)); after++) {
    dots += strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    if (after == 100) place = telldir(dir);
  }
  seekdir(dir, place);
  long rest = 0;
  while (readdir(dir)) rest++;
  closedir(dir);
  printf("dots %ld, all %ld, from the place %ld\n", dots, after, rest);
  mkdir("odd", 0755);
  for (int byte = 1; byte < 256; byte++) {
    if (byte == '/') continue;
    snprintf(name, sizeof name, "odd/n%c%c", byte, byte);
    if (make(name, 0644)) printf("odd %d: %s\n", byte, strerrorname_np(errno));
  }
  dir = opendir("odd");
  int seen[256] = {0}, total = 0;
  for (struct dirent *entry; (entry = readdir(dir));)
    if (entry->d_name[0] == 'n') { seen[(unsigned char)entry->d_name[1]]++; total += entry->d_name[1] == entry->d_name[2]; }
  closedir(dir);
  printf("odd names %d, newline %d, 255: %d\n", total, seen['\n'], seen[255]);
}

static int lock_of(int fd, short type) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
  return fcntl(fd, F_SETLK, &lock);
}

static void locked_body(void) {
  int fd = open("locks", O_RDWR);
  say("POSIX write lock by another", lock_of(fd, F_WRLCK));
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
  say("getlk", fcntl(fd, F_GETLK, &lock));
  printf("type %d start %ld len %ld\n", lock.l_type, (long)lock.l_start, (long)lock.l_len);
  say("flock by another", flock(fd, LOCK_EX | LOCK_NB));
  say("shared flock by another", flock(fd, LOCK_SH | LOCK_NB));
}

static void locks(void) {
  int fd = open("locks", O_RDWR | O_CREAT, 0666);
  fchmod(fd, 0666);
  say("POSIX lock", lock_of(fd, F_WRLCK));
  say("flock", flock(fd, LOCK_EX | LOCK_NB));
  as_user(1000, 1000, 0, locked_body);
  say("unlock", lock_of(fd, F_UNLCK));
  say("unflock", flock(fd, LOCK_UN));
  as_user(1000, 1000, 0, locked_body);
}

static void special(void) {
  say("fifo", mkfifo("fifo", 0644));
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) { int out = open("fifo", O_WRONLY); (void)!write(out, "through", 7); _exit(0); }
  char text[16] = {0};
  say("read", read(open("fifo", O_RDONLY), text, 7));
  waitpid(child, NULL, 0);
  printf("read %s\n", text);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
  say("bind", bind(server, (void *)&address, sizeof address));
  say("listen", listen(server, 1));
  say("connect", connect(client, (void *)&address, sizeof address));
  describe("fifo");
}

static uint64_t state;
static uint32_t next(uint32_t below) {
  state ^= state << 13; state ^= state >> 7; state ^= state << 17;
  return (uint32_t)(state >> 33) % below;
}

static void random_operations(uint64_t seed, int count) {
  state = seed * 2654435761u + 88172645463325252ull;
  static unsigned char buffer[1 << 18];
  int open_files[4] = {-1, -1, -1, -1};
  mkdir("p", 0755); mkdir("q", 0755);
  for (int i = 0; i < count; i++) {
    char a[16], b[16];
    snprintf(a, sizeof a, "%s/%u", next(2) ? "p" : "q", next(6));
    snprintf(b, sizeof b, "%s/%u", next(2) ? "p" : "q", next(6));
    uint32_t what = next(17), at = next(300000), size = next(next(4) ? 5000 : 200000) + 1, slot = next(4);
    int fd = -1;
    long result = 0;
    uint64_t seen = 0;
    switch (what) {
      case 0: case 1: case 2:
        for (uint32_t k = 0; k < size; k++) buffer[k] = (unsigned char)(seed + i + k);
        fd = open(a, O_RDWR | O_CREAT, 0640);
        result = fd < 0 ? -1 : pwrite(fd, buffer, size, at);
        break;
      case 3: case 4: case 5:
        fd = open(a, O_RDONLY);
        result = fd < 0 ? -1 : pread(fd, buffer, size, at);
        if (result > 0) seen = hash(buffer, result, 7);
        break;
      case 6: result = truncate(a, at); break;
      case 7: result = rename(a, b); break;
      case 8: result = unlink(a); break;
      case 9: result = link(a, b); break;
      case 10: result = chmod(a, 0400 | next(0400)); break;
      case 11:
        fd = open(a, O_WRONLY | O_APPEND);
        memset(buffer, 'A' + i % 26, 777);
        result = fd < 0 ? -1 : write(fd, buffer, 777);
        break;
      case 12:
        fd = open(a, O_RDWR);
        result = fd < 0 ? -1 : fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at & ~4095u, (size | 4095) + 1);
        break;
      case 13: {
        fd = open(a, O_RDWR);
        struct stat st;
        if (fd < 0 || fstat(fd, &st)) { result = -1; break; }
        if (st.st_size == 0) break;
        unsigned char *map = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) { result = -1; break; }
        for (int k = 0; k < 20; k++) map[next(st.st_size)] = (unsigned char)next(256);
        seen = hash(map, st.st_size, 9);
        if (next(2)) msync(map, st.st_size, MS_SYNC);
        munmap(map, st.st_size);
        break;
      }
      case 14:
        if (open_files[slot] >= 0) close(open_files[slot]);
        result = open_files[slot] = open(a, O_RDWR);
        if (result >= 0) result = 0;
        break;
      case 15:
        result = open_files[slot] < 0 ? 0 : pwrite(open_files[slot], buffer, size % 4096, at);
        break;
      case 16:
        result = open_files[slot] < 0 ? 0 : pread(open_files[slot], buffer, size, at);
        if (result > 0) seen = hash(buffer, result, 7);
        break;
    }
    const char *text = name_of(result);
    struct stat st = {0};
    int there = stat(a, &st) == 0;
    printf("%d op %u %s %s at %u size %u: %s %016lx; size %ld nlink %ld mode %o\n", i, what, a, b, at, size, text,
           (unsigned long)seen, there ? (long)st.st_size : -1, there ? (long)st.st_nlink : -1, there ? st.st_mode : 0);
    if (fd >= 0) close(fd);
  }
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static void bench(void) {
  size_t size = 1 << 20;
  int rounds = 64;
  char *bytes = malloc(size), name[64];
  memset(bytes, 'b', size);
  int fd = open("bench", O_RDWR | O_CREAT | O_TRUNC, 0644);
  double start = seconds();
  for (int i = 0; i < rounds; i++) (void)!pwrite(fd, bytes, size, (off_t)i * size);
  printf("write, 1 MiB calls: %.0f MB/s\n", rounds * 1.048576 / (seconds() - start));
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  start = seconds();
  for (int i = 0; i < rounds; i++) (void)!pread(fd, bytes, size, (off_t)i * size);
  printf("read, 1 MiB calls, not cached: %.0f MB/s\n", rounds * 1.048576 / (seconds() - start));
  start = seconds();
  for (int i = 0; i < rounds; i++) (void)!pread(fd, bytes, size, (off_t)i * size);
  printf("read, 1 MiB calls, cached: %.0f MB/s\n", rounds * 1.048576 / (seconds() - start));
  int count = 1000;
  start = seconds();
  for (int i = 0; i < count; i++) (void)!pwrite(fd, bytes, 4096, (off_t)i * 4096);
  printf("write, 4 KiB calls: %.0f/s\n", count / (seconds() - start));
  start = seconds();
  struct stat st;
  for (int i = 0; i < count; i++) stat("bench", &st);
  printf("stat: %.0f/s\n", count / (seconds() - start));
  start = seconds();
  for (int i = 0; i < count; i++) { snprintf(name, sizeof name, "b%d", i); close(open(name, O_CREAT | O_WRONLY, 0644)); }
  printf("create and close: %.0f/s\n", count / (seconds() - start));
  start = seconds();
  for (int i = 0; i < count; i++) { snprintf(name, sizeof name, "b%d", i); unlink(name); }
  printf("unlink: %.0f/s\n", count / (seconds() - start));
  unlink("bench");
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const char *mode = argv[1];
  umask(022);
  if (strcmp(mode, "lock") == 0 || strcmp(mode, "locked") == 0) {
    int fd = open(argv[2], O_RDWR | O_CREAT, 0666);
    printf("POSIX %s\n", name_of(lock_of(fd, F_WRLCK)));
    printf("flock %s\n", name_of(flock(fd, LOCK_EX | LOCK_NB)));
    fflush(stdout);
    if (mode[4] == 0) pause();
    return 0;
  }
  if (strcmp(mode, "list") == 0) {
    DIR *dir = opendir(argv[2]);
    long count = 0, sum = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
      if (entry->d_name[0] == '.') continue;
      count++;
      for (char *at = entry->d_name; *at; at++) sum += (unsigned char)*at;
    }
    printf("%ld entries, sum %ld\n", count, sum);
    return 0;
  }
  if (strcmp(mode, "watch") == 0 && argc == 5) {
    int fd = open(argv[2], O_RDONLY);
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), text[4096], byte;
    for (;;) {
      int go = open(argv[3], O_RDONLY);
      if (go < 0 || read(go, &byte, 1) != 1) return 0;
      close(go);
      ssize_t size = pread(fd, text, sizeof text, 0);
      int said = open(argv[4], O_WRONLY);
      dprintf(said, "%.*s, mapped %.*s", (int)size, text, (int)size, map);
      close(said);
    }
  }
  if (chdir(argv[2])) { perror(argv[2]); return 1; }
  if (strcmp(mode, "battery") == 0) { basics(); links(); owners(); data(); attributes(); directories(); locks(); special(); }
  else if (strcmp(mode, "random") == 0 && argc == 5) random_operations(strtoull(argv[3], NULL, 10), atoi(argv[4]));
  else if (strcmp(mode, "bench") == 0) bench();
  else return 2;
  return 0;
}
