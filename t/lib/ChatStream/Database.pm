# SPDX-License-Identifier: Apache-2.0
package ChatStream::Database;

# A private database of each kind that mod_dbd is used with here: its own data below `dir`, loopback only, nobody asks for a
# password. Servers start in about half a second, so a test has its own; reset() empties one that several parts share.
#
#     my $db = ChatStream::Database->new(kind => 'pgsql', dir => $t->dir)->start;
#     server_config => 'DBDriver ' . $db->driver . "\nDBDParams \"" . $db->params . "\"\n"
#     $db->load('schema.sql');
#     is $db->value('SELECT count(*) FROM t WHERE a = ?', 1), 1;
#     $db->freeze;    # connections are accepted and nothing is answered
#     $db->thaw;
#     $db->kill;      # kill -9
#     $db->start;     # what was committed is there, at the same address
#
# Clients named by params() and ctl() reach the server through a proxy, which is what freezes; the test's own handles go
# straight to the server's socket and therefore see the truth at any time. A kind that is not installed dies: no test passes
# by leaving it out.

use strict;
use warnings;

use ChatStream::Process qw(children_of free_port slurp wait_until);
use DBI ();
use Errno ();
use File::Spec ();
use File::Path qw(make_path);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use IPC::SysV ();
use POSIX ();
use Scalar::Util ();
use Socket ();

my $NAME = 'chatstream';    # of the role and of the database
my $FILE = File::Spec->rel2abs(__FILE__);
my $instances = 0;
my %instances;              # what the END below looks after

my %KIND = map { $_ => "ChatStream::Database::$_" } qw(sqlite3 pgsql mysql);

# Options:
#   kind         sqlite3, pgsql, mysql
#   dir          where its directory is made; gets x for everybody, because the server runs as somebody else
#   proxy        0: params() is the server itself (for measuring); freeze() then only knows 'server'
#   durable      1: with fsync. Without it a power failure may lose commits, kill -9 does not: each commit has been written
#                to the kernel before it is acknowledged.
#   connections  how many it allows; 200
sub new
{
    my ($class, %options) = @_;
    my $kind = $KIND{ $options{kind} // '' } or die 'no such kind of database: ' . ($options{kind} // 'undef') . "\n";
    DBI->install_driver({ sqlite3 => 'SQLite', pgsql => 'Pg', mysql => 'MariaDB' }->{ $options{kind} });
    my $self = bless { proxy => 1, connections => 200, %options, owner => $$ }, $kind;
    chmod +(stat $self->{dir})[2] & 07777 | 0111, $self->{dir} or die "$self->{dir}: $!\n";
    $self->{home} = sprintf '%s/db-%s-%d', $self->{dir}, $self->{kind}, ++$instances;
    make_path($self->{home});
    $self->{user} = $self->_user if $> == 0;
    if ($self->{user}) {
        my ($uid, $gid) = (getpwnam $self->{user})[ 2, 3 ];
        defined $uid && chown $uid, $gid, $self->{home} or die "$self->{home}: cannot give it to $self->{user}: $!\n";
    }
    $self->{server_log} = "$self->{home}/server.log";
    $self->_create;
    Scalar::Util::weaken($instances{ $self->{home} } = $self);
    return $self;
}

sub driver { $_[0]{kind} }
sub ctl    { return $_[0]->driver . ':' . $_[0]->params }
sub port   { $_[0]{port} }
sub log    { slurp($_[0]{server_log}) // '' }
sub pid    { $_[0]{server} && $_[0]{server}->pid }
sub alive  { $_[0]{server} && $_[0]{server}->alive }

# ---- life --------------------------------------------------------------------------------------------------------------

# Starts it, or starts it again where it was; returns when it answers.
sub start
{
    my ($self) = @_;
    my $again = $self->{port};
    die "$self->{kind}: already started\n" if $self->alive;
    for my $try (1 .. 5) {
        $self->{port} = free_port() if !$self->{proxy} && !$again;
        $self->{server} = ChatStream::Process->start(
            name => $self->{kind}, output => $self->{server_log}, command => [ $self->_as_user($self->_command) ],
        );
        my $ready = wait_until(sub { !$self->alive || eval { $self->dbh } }, 60);
        my $why = $@;
        last if $ready && $self->alive;
        $self->{server}->stop;
        die "$self->{kind} did not start: $why" . $self->log . "\n" if $self->{proxy} || $try == 5;
    }
    $self->_start_proxy if $self->{proxy};
    return $self;
}

# Ends it in order.
sub stop
{
    my ($self) = @_;
    $self->_let_go;
    my $clean = !$self->{server} || $self->{server}->stop(20, $self->_stop_signal);
    $self->_forget;
    return $clean;
}

# kill -9 of the server with all its processes, in one moment: none sees another die and does something about it.
sub kill
{
    my ($self) = @_;
    $self->_let_go;
    my $pid = $self->alive ? $self->pid : return $self;
    my @family = _hold($pid);
    CORE::kill 'KILL', @family;
    wait_until(sub { !$self->alive && !grep { _state($_) =~ /[^Z]/ } @family }, 10) or die "$self->{kind} survives kill -9\n";
    return $self;
}

# Stops a process and its children; their pids. The parent first, or it makes another child meanwhile.
sub _hold
{
    my ($pid) = @_;
    CORE::kill 'STOP', $pid;
    wait_until(sub { _state($pid) !~ /[^TZ]/ }, 5);
    my @family = ($pid, children_of($pid));
    CORE::kill 'STOP', @family;
    wait_until(sub { !grep { _state($_) =~ /[^TZ]/ } @family }, 5) or die "@family do not stop\n";
    return @family;
}

# One letter as ps shows it; empty: no such process.
sub _state { return (slurp("/proc/$_[0]/stat") // '') =~ /^\d+ \(.*\) (\S) /s ? $1 : '' }

# From now on clients get no answer: new connections are made and open ones stay, both without a word. freeze('server')
# instead stops the server itself; then the test's own queries hang as well.
sub freeze
{
    my ($self, $what) = @_;
    die "$self->{kind}: already frozen\n" if $self->{freezer};
    my $process = ($what || 'proxy') eq 'server' ? $self->{server} : $self->{proxy_process};
    die "$self->{kind}: nothing there to freeze\n" if !$process || !$process->alive;
    # Another process holds it, so that it does not stay stopped when the test is killed.
    $self->{freezer} = _helper("$self->{home}/freezer.log", 'freezer', $process->pid);
    return $self;
}

sub thaw
{
    my ($self) = @_;
    my $freezer = delete $self->{freezer} or return $self;
    $freezer->stop;
    return $self;
}

# Empties it: no table is left. PostgreSQL ends its clients' connections for that.
sub reset
{
    my ($self) = @_;
    $self->_disconnect;
    $self->_reset;
    return $self;
}

sub _let_go
{
    my ($self) = @_;
    $self->thaw;
    $self->_disconnect;
    my $proxy = delete $self->{proxy_process};
    $proxy->stop if $proxy;
    return;
}

sub _disconnect
{
    my ($self) = @_;
    my $handle = delete $self->{handle};
    $handle->disconnect if $handle;
    return;
}

sub _forget { return }

sub DESTROY
{
    my ($self) = @_;
    return if ($self->{owner} // 0) != $$;
    local ($?, $@, $!);
    eval { $self->stop };
    return;
}

# Before the END of ChatStream::Process, which does not know how to end what is frozen.
END
{
    local ($?, $@, $!);
    $_ && $_->DESTROY for values %instances;
}

# ---- questions ---------------------------------------------------------------------------------------------------------

# A handle of one's own, which dies on errors. admin => 1: as the superuser; other options go to DBI.
sub dbh
{
    my ($self, %options) = @_;
    my $admin = delete $options{admin};
    return DBI->connect(
        $self->_dsn($admin), $admin ? $self->_admin : $NAME, '',
        { RaiseError => 1, PrintError => 0, AutoCommit => 1, AutoInactiveDestroy => 1, $self->_dbi_options, %options },
    );
}

sub _handle { my ($self) = @_; return $self->{handle} ||= $self->dbh }

# The rows, one hash each.
sub query
{
    my ($self, $sql, @bind) = @_;
    return @{ $self->_handle->selectall_arrayref($sql, { Slice => {} }, @bind) };
}

sub value { my ($self, $sql, @bind) = @_; return scalar $self->_handle->selectrow_array($sql, undef, @bind) }
sub do    { my ($self, $sql, @bind) = @_; return $self->_handle->do($sql, undef, @bind) }

# Runs a file with the database's own client; dies with what that said at the first error.
sub load
{
    my ($self, $file) = @_;
    -r $file or die "$file: $!\n";
    return _run($file, $self->_client);
}

# ---- processes ---------------------------------------------------------------------------------------------------------

# PostgreSQL refuses to run as root, MariaDB had better not. The change of user takes the death signal away, so it is set
# once more behind it.
sub _as_user
{
    my ($self, @command) = @_;
    my @in = ('env', '-C', $self->{home}, @command);
    return @in if !$self->{user};
    my $gid = (getpwnam $self->{user})[3];
    return (
        'setpriv', '--reuid', $self->{user}, '--regid', $gid, '--clear-groups', '--pdeathsig', $self->_stop_signal, '--', @in,
    );
}

# Runs a command to its end with a file (or nothing) as its input; returns what it printed and dies when it fails.
sub _run
{
    my ($input, @command) = @_;
    my $pid = open my $output, '-|';
    defined $pid or die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        if (open STDIN, '<', $input // '/dev/null') { no warnings 'exec'; exec { $command[0] } @command }
        print "$command[0]: $!\n";
        STDOUT->flush;
        POSIX::_exit(127);
    }
    my $said = do { local $/; <$output> } // '';
    close $output or die "@command:\n$said\n";
    return $said;
}

# This file as a program: one of the helpers at its end.
sub _helper
{
    my ($output, $what, @arguments) = @_;
    unlink $output;
    my $process = ChatStream::Process->start(
        name => $what, output => $output,
        command => [
            $^X, '-e', 'require shift; my $run = shift; ChatStream::Database::Helper->can($run)->(@ARGV)',
            $FILE, $what, @arguments,
        ],
        env => { PERL5LIB => join ':', grep { !ref } @INC },
    );
    wait_until(sub { !$process->alive || (slurp($output) // '') =~ /^ready/m }, 20);
    (slurp($output) // '') =~ /^ready/m or die "$what: " . (slurp($output) // '') . "\n";
    return $process;
}

sub _start_proxy
{
    my ($self) = @_;
    my $output = "$self->{home}/proxy.log";
    $self->{proxy_process} = _helper($output, 'proxy', $self->{port} || 0, $self->_socket);
    ($self->{port}) = slurp($output) =~ /^ready (\d+)/m;
    return;
}

sub _write
{
    my ($file, $text) = @_;
    open my $handle, '>', $file or die "$file: $!\n";
    print $handle $text or die "$file: $!\n";
    close $handle or die "$file: $!\n";
    return;
}

sub _program
{
    my ($what, @candidates) = @_;
    my ($found) = grep { -x } @candidates, map { my $dir = $_; map { "$dir/$_" } $what } split /:/, $ENV{PATH};
    return $found // die "no $what: run script/setup\n";
}

# ---- PostgreSQL --------------------------------------------------------------------------------------------------------

package ChatStream::Database::pgsql;
our @ISA = 'ChatStream::Database';

sub _user { 'postgres' }
sub _admin { 'postgres' }
sub _dbi_options { return () }
sub _stop_signal { 'INT' }    # TERM would wait for every client to go

sub _create
{
    my ($self) = @_;
    my ($newest) = sort { $b <=> $a } map { m{/(\d+)/bin/postgres$} } glob '/usr/lib/postgresql/*/bin/postgres';
    my $bin = defined $newest ? "/usr/lib/postgresql/$newest/bin" : undef;
    $self->{$_} = ChatStream::Database::_program($_, $bin ? "$bin/$_" : ()) for qw(initdb postgres psql);
    my $data = "$self->{home}/data";
    ChatStream::Database::_run(
        undef, $self->_as_user($self->{initdb}, qw(--no-sync -A trust -U postgres -E UTF8 --locale=C -D), $data),
    );
    my $sql = "$self->{home}/create.sql";
    ChatStream::Database::_write($sql, "CREATE ROLE $NAME LOGIN;\nCREATE DATABASE $NAME OWNER $NAME;\n");
    my $said = ChatStream::Database::_run(
        $sql, $self->_as_user($self->{postgres}, '--single', '-c', 'fsync=off', '-D', $data, 'postgres'),
    );
    die "postgres --single:\n$said\n" if $said =~ /ERROR:|FATAL:/;    # its exit status says nothing
    return;
}

sub _command
{
    my ($self) = @_;
    my %set = (
        listen_addresses => $self->{proxy} ? '' : '127.0.0.1', unix_socket_directories => $self->{home},
        port => $self->{proxy} ? 5432 : $self->{port}, max_connections => $self->{connections},
        shared_buffers => '32MB', dynamic_shared_memory_type => 'mmap', timezone => 'UTC', log_timezone => 'UTC',
        # Not synchronous_commit: without that, kill -9 loses what has been acknowledged.
        $self->{durable} ? () : (fsync => 'off', full_page_writes => 'off'),
    );
    return ($self->{postgres}, '-D', "$self->{home}/data", map { ('-c', "$_=$set{$_}") } sort keys %set);
}

sub params { return "host=127.0.0.1 port=$_[0]{port} dbname=$NAME user=$NAME" }
sub _socket_port { return $_[0]{proxy} ? 5432 : $_[0]{port} }
sub _socket { return "$_[0]{home}/.s.PGSQL." . $_[0]->_socket_port }

sub _dsn
{
    my ($self, $admin) = @_;
    return "dbi:Pg:host=$self->{home};port=" . $self->_socket_port . ';dbname=' . ($admin ? 'postgres' : $NAME);
}

sub _client
{
    my ($self) = @_;
    return (
        $self->{psql}, qw(-X -q -v ON_ERROR_STOP=1), '-h', $self->{home}, '-p', $self->_socket_port, '-U', $NAME, '-d', $NAME,
        '-f', '-',
    );
}

sub _reset
{
    my ($self) = @_;
    my $handle = $self->dbh(admin => 1);
    $handle->do("DROP DATABASE $NAME WITH (FORCE)");
    $handle->do("CREATE DATABASE $NAME OWNER $NAME");
    $handle->disconnect;
    return;
}

# After a kill -9 with no start behind it: the few bytes of System V memory by which PostgreSQL knows whether it runs.
sub _forget
{
    my ($self) = @_;
    my @lines = split /\n/, ChatStream::Process::slurp("$self->{home}/data/postmaster.pid") // '';
    my ($id) = ($lines[6] // '') =~ /^\s*\d+\s+(\d+)/;    # the key, the id
    shmctl $id, IPC::SysV::IPC_RMID(), 0 if defined $id && !$self->alive;
    return;
}

# ---- MariaDB -----------------------------------------------------------------------------------------------------------

package ChatStream::Database::mysql;
our @ISA = 'ChatStream::Database';

sub _user { return defined getpwnam 'mysql' ? 'mysql' : 'nobody' }
sub _admin { 'root' }
sub _dbi_options { return () }
sub _stop_signal { 'TERM' }

sub _innodb
{
    my ($self) = @_;
    return (
        qw(--innodb-buffer-pool-size=32M --innodb-log-file-size=8M --innodb-data-file-path=ibdata1:4M:autoextend),
        # 2 writes at each commit and leaves the disk to the kernel; 0 would lose commits with kill -9.
        $self->{durable} ? () : qw(--innodb-flush-log-at-trx-commit=2 --skip-innodb-doublewrite),
    );
}

sub _create
{
    my ($self) = @_;
    $self->{mariadbd} = ChatStream::Database::_program('mariadbd', '/usr/sbin/mariadbd');
    $self->{mariadb} = ChatStream::Database::_program('mariadb');
    my $sql = "$self->{home}/create.sql";
    ChatStream::Database::_write($sql, <<"END");
FLUSH PRIVILEGES;
CREATE DATABASE $NAME CHARACTER SET utf8mb4;
CREATE USER '$NAME'\@'%';
GRANT ALL ON $NAME.* TO '$NAME'\@'%';
END
    ChatStream::Database::_run(undef, $self->_as_user(
        ChatStream::Database::_program('mariadb-install-db'), '--no-defaults', "--datadir=$self->{home}/data", "--extra-file=$sql",
        qw(--skip-test-db --auth-root-authentication-method=normal --skip-name-resolve), $self->_innodb,
    ));
    return;
}

sub _command
{
    my ($self) = @_;
    return (
        $self->{mariadbd}, '--no-defaults', "--datadir=$self->{home}/data", '--socket=' . $self->_socket,
        "--pid-file=$self->{home}/server.pid", "--max-connections=$self->{connections}",
        $self->{proxy} ? '--skip-networking' : ('--bind-address=127.0.0.1', "--port=$self->{port}"),
        # As Debian configures it; what is compiled in is latin1.
        qw(--character-set-server=utf8mb4 --collation-server=utf8mb4_general_ci),
        qw(--skip-name-resolve --default-time-zone=+00:00), $self->_innodb,
    );
}

sub params { return "host=127.0.0.1,port=$_[0]{port},user=$NAME,dbname=$NAME" }
sub _socket { return "$_[0]{home}/server.sock" }

sub _dsn
{
    my ($self, $admin) = @_;
    return 'dbi:MariaDB:mariadb_socket=' . $self->_socket . ';database=' . ($admin ? 'mysql' : $NAME);
}

sub _client
{
    my ($self) = @_;
    return (
        $self->{mariadb}, '--no-defaults', '--socket=' . $self->_socket, "--user=$NAME", '--default-character-set=utf8mb4', $NAME,
    );
}

sub _reset
{
    my ($self) = @_;
    my $handle = $self->dbh(admin => 1);
    $handle->do("DROP DATABASE $NAME");
    $handle->do("CREATE DATABASE $NAME CHARACTER SET utf8mb4");
    $handle->disconnect;
    return;
}

# ---- SQLite ------------------------------------------------------------------------------------------------------------

# A file and no server: start, stop and kill only drop the test's own handle, and what freezes is the writers, who wait for a
# lock that a helper holds (in WAL mode readers go on).
package ChatStream::Database::sqlite3;
our @ISA = 'ChatStream::Database';

sub _user { 'www-data' }    # httpd's children write it, and SQLite needs its directory for the journal
sub _dbi_options { return (sqlite_unicode => 1, sqlite_busy_timeout => 10_000) }
sub params { return "$_[0]{home}/data.sqlite" }
sub _dsn { return 'dbi:SQLite:dbname=' . $_[0]->params }
sub _admin { '' }
sub _stop_signal { 'TERM' }

sub _create
{
    my ($self) = @_;
    $self->{sqlite3} = ChatStream::Database::_program('sqlite3');
    open my $handle, '>', $self->params or die $self->params . ": $!\n";
    chown +(stat $self->{home})[ 4, 5 ], $self->params or die $self->params . ": $!\n";
    return;
}

sub start { my ($self) = @_; $self->{started} = 1; $self->value('SELECT 1'); return $self }
sub stop  { my ($self) = @_; $self->{started} = 0; $self->_let_go; return 1 }
sub kill  { my ($self) = @_; $self->stop; return $self }
sub alive { $_[0]{started} }

sub freeze
{
    my ($self) = @_;
    die "sqlite3: already frozen\n" if $self->{freezer};
    $self->{freezer} = ChatStream::Database::_helper("$self->{home}/freezer.log", 'locker', $self->params);
    return $self;
}

sub _client
{
    my ($self) = @_;
    return ($self->{sqlite3}, qw(-bail -batch -init /dev/null -cmd), '.timeout 10000', $self->params);
}

sub _reset
{
    my ($self) = @_;
    my $sql = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'";
    for my $entry ($self->query($sql)) {
        $self->do("DROP $entry->{type} \"$entry->{name}\"");
    }
    $self->_disconnect;
    return;
}

# ---- helpers, each a process of its own -------------------------------------------------------------------------------

package ChatStream::Database::Helper;

sub ready { local $| = 1; print "ready @_\n"; return }

sub freezer
{
    my ($pid) = @_;
    my @held = ($pid);
    $SIG{TERM} = sub { CORE::kill 'CONT', $pid, @held; POSIX::_exit(0) };
    @held = ChatStream::Database::_hold($pid);
    ready();
    sleep 1000 while 1;
}

sub locker
{
    my ($file) = @_;
    my $handle = DBI->connect("dbi:SQLite:dbname=$file", '', '', { RaiseError => 1, sqlite_busy_timeout => 10_000 });
    $handle->do('BEGIN EXCLUSIVE');
    $SIG{TERM} = sub { exit 0 };
    ready();
    sleep 1000 while 1;
}

# Forwards connections on 127.0.0.1:port (0: any) to a Unix socket. One direction that is not read does not hold the other.
sub proxy
{
    my ($port, $path) = @_;
    $SIG{TERM} = sub { POSIX::_exit(0) };
    $SIG{PIPE} = 'IGNORE';
    my $listener;
    ChatStream::Process::wait_until(sub {
        $listener = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1024, ReuseAddr => 1, Proto => 'tcp',
        );
    }, 10) or die "port $port: $@\n";
    ready($listener->sockport);

    my ($reads, $writes) = (IO::Select->new($listener), IO::Select->new);
    my (%peer, %waiting);    # by socket: the other end; what it has still to be sent
    my $end = sub {
        for my $socket (grep { defined } @_) {
            $_->remove($socket) for $reads, $writes;
            delete $_->{$socket} for \%peer, \%waiting;
            close $socket;
        }
    };
    my $send = sub {
        my ($to) = @_;
        my $from = $peer{$to};
        my $sent = syswrite $to, $waiting{$to};
        return $end->($to, $from) if !defined $sent && !$!{EAGAIN};
        substr $waiting{$to}, 0, $sent // 0, '';
        my $left = length $waiting{$to};
        $left ? $writes->add($to) : $writes->remove($to);
        $left ? $reads->remove($from) : $reads->add($from);    # who is not read from stops sending
    };
    while (1) {
        my ($readable, $writable) = IO::Select->select($reads, $writes, undef);
        for my $to (@{ $writable || [] }) { $send->($to) if $peer{$to} }
        for my $from (@{ $readable || [] }) {
            if ($from == $listener) {
                my $client = $listener->accept or next;
                my $server = IO::Socket::UNIX->new(Peer => $path) or $client->close, next;
                setsockopt $client, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1;
                $_->blocking(0), $reads->add($_), $waiting{$_} = '' for $client, $server;
                @peer{ $client, $server } = ($server, $client);
                next;
            }
            my $to = $peer{$from} // next;
            my $got = sysread $from, $waiting{$to}, 65536, length $waiting{$to};
            next if !defined $got && $!{EAGAIN};
            $got ? $send->($to) : $end->($from, $to);
        }
    }
}

1;
