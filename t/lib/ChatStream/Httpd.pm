# SPDX-License-Identifier: Apache-2.0
package ChatStream::Httpd;

# A private httpd: its own directory, free ports, the module under test, and nothing of the machine's configuration.
#
#     my $httpd = ChatStream::Httpd->new(dir => $dir, module => '.libs/mod_chatstream.so', mpm => 'event', config => $text);
#     $httpd->start;
#     $httpd->graceful;
#     $httpd->stop;

use strict;
use warnings;

use ChatStream::Process qw(children_of free_port slurp wait_until);
use File::Path qw(make_path);
use IO::Socket::INET;

# Options (all but dir and module have defaults):
#   mpm           event, worker, prefork
#   children      processes, kept at that number; 1 (prefork: 8)
#   threads       per process; 25
#   tls, http2    a second port with TLS; h2 on both ports
#   modules       more of httpd's modules, by the name in mod_NAME.so
#   bare          1: without the limits' being taken off for tests
#   server_config text outside of the virtual hosts
#   first_config  the same, in front of it (the fixture's own)
#   config        text inside of each virtual host
#   defines       hash: Define NAME value
#   log_level     'warn chatstream:info'
#   env           hash of environment variables
sub new
{
    my ($class, %options) = @_;
    my $self = bless { mpm => 'event', threads => 25, log_level => 'warn chatstream:info', %options }, $class;
    $self->{children} ||= $self->{mpm} eq 'prefork' ? 8 : 1;
    chomp($self->{libexecdir} = `@{[ $ENV{APXS} || 'apxs' ]} -q LIBEXECDIR`);
    chomp($self->{sbindir} = `@{[ $ENV{APXS} || 'apxs' ]} -q SBINDIR`);
    chomp(my $name = `@{[ $ENV{APXS} || 'apxs' ]} -q PROGNAME`);
    $self->{program} = "$self->{sbindir}/$name";
    -x $self->{program} or die "no httpd: $self->{program}\n";
    -e $self->{module} or die "no module: $self->{module} (run make first)\n";

    make_path(map { "$self->{dir}/$_" } qw(run logs htdocs conf));
    $self->{error_log} = "$self->{dir}/logs/error.log";
    $self->{access_log} = "$self->{dir}/logs/access.log";
    $self->make_certificate if $self->{tls};
    $self->{env} = { %{ $self->{env} || {} }, $self->_sanitizer_env };
    return $self;
}

# httpd is not built with the sanitizer's runtime, so the loader has to bring it before everything else.
sub _sanitizer_env
{
    my ($self) = @_;
    my $libraries = `ldd '$self->{module}' 2>/dev/null`;
    my @runtime = $libraries =~ m{=> (\S*/lib(?:clang_rt\.)?asan\S*)}g;
    # clang keeps its runtime where the loader does not look.
    if ($libraries =~ /(libclang_rt\.asan\S*) => not found/) {
        chomp(@runtime = `clang -print-file-name=$1`);
    }
    @runtime or return;
    $self->{sanitized} = 1;
    return (
        LD_PRELOAD   => join(' ', @runtime),
        ASAN_OPTIONS => $ENV{ASAN_OPTIONS} // 'detect_leaks=0:abort_on_error=1:handle_abort=1',
        UBSAN_OPTIONS => $ENV{UBSAN_OPTIONS} // 'print_stacktrace=1',
    );
}

# A CA and a certificate for localhost and 127.0.0.1: ca.pem, cert.pem, key.pem in `dir`.
sub make_certificate
{
    my ($self) = @_;
    my $dir = "$self->{dir}/conf";
    @$self{qw(ca cert key)} = map { "$dir/$_.pem" } qw(ca cert key);
    return if -e $self->{cert};
    make_path($dir);
    _write("$dir/openssl.cnf", <<'END');
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
END
    my $make = 'openssl req -config openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30';
    my $out = `cd '$dir' && $make -subj /CN=chatstream-test-ca -extensions ca -keyout ca.key -out ca.pem 2>&1 &&
        $make -subj /CN=localhost -extensions leaf -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem 2>&1`;
    die "openssl: $out\n" if $?;
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

# ---- configuration -----------------------------------------------------------------------------------------------------

sub write_config
{
    my ($self) = @_;
    my $dir = $self->{dir};
    my ($children, $threads) = @$self{qw(children threads)};
    my @modules = (
        "mpm_$self->{mpm}", qw(authz_core alias dir mime headers env setenvif),
        $self->{tls} ? qw(socache_shmcb ssl) : (), $self->{http2} ? 'http2' : (), @{ $self->{modules} || [] },
    );
    my %seen;
    my $load = join '', map { "LoadModule ${_}_module $self->{libexecdir}/mod_$_.so\n" } grep { !$seen{$_}++ } @modules;
    # Spare limits as wide as the server: a test decides itself when a child goes.
    my $workers = $children * $threads;
    my $mpm = $self->{mpm} eq 'prefork'
        ? "StartServers $children\nMinSpareServers $children\nMaxSpareServers $children\nMaxRequestWorkers $children\nServerLimit $children\n"
        : "StartServers $children\nServerLimit " . ($children + 2) . "\nThreadsPerChild $threads\nThreadLimit $threads\n"
            . "MaxRequestWorkers $workers\nMinSpareThreads 1\nMaxSpareThreads $workers\n"
            . ($self->{mpm} eq 'event' ? 'AsyncRequestWorkerFactor ' . int(8192 / $threads + 100) . "\n" : '');
    my $defines = join '', map { "Define $_ \"$self->{defines}{$_}\"\n" } sort keys %{ $self->{defines} || {} };
    my $user = $> == 0 ? "User www-data\nGroup www-data\n" : '';
    my $protocols = $self->{http2} ? 'Protocols h2 h2c http/1.1' : 'Protocols http/1.1';
    my $inner = <<"END";
ServerName localhost
DocumentRoot "$dir/htdocs"
<Location "/-/health">
    SetHandler chatstream-health
</Location>
@{[ $self->{config} // '' ]}
END
    my $tls = !$self->{tls} ? '' : <<"END";
Listen 127.0.0.1:$self->{tls_port}
SSLSessionCache "shmcb:$dir/run/ssl(65536)"
<VirtualHost 127.0.0.1:$self->{tls_port}>
SSLEngine on
SSLCertificateFile "$self->{cert}"
SSLCertificateKeyFile "$self->{key}"
$inner
</VirtualHost>
END
    _write("$dir/conf/httpd.conf", <<"END");
$load
LoadModule chatstream_module "$self->{module}"
$defines
ServerRoot "$dir"
DefaultRuntimeDir "$dir/run"
PidFile "$dir/run/httpd.pid"
ServerName localhost
$user
ErrorLog "$self->{error_log}"
LogLevel $self->{log_level}
LogFormat "%h %u \\"%r\\" %>s %O \\"%{Referer}i\\" \\"%{User-Agent}i\\" %q" chatstream_test
CustomLog "$self->{access_log}" chatstream_test
TypesConfig /dev/null
AddType text/html .html
GracefulShutdownTimeout 60
KeepAliveTimeout 5
Timeout 60
$mpm
$protocols
<Directory />
    AllowOverride None
    Require all granted
</Directory>
# One client stands for many users here; tests of the limit set their own.
@{[ $self->{bare} ? '' : 'ChatStreamMaxPerUser 0' ]}
@{[ $self->{first_config} // '' ]}
@{[ $self->{server_config} // '' ]}
Listen 127.0.0.1:$self->{port}
<VirtualHost 127.0.0.1:$self->{port}>
$inner
</VirtualHost>
$tls
END
    return;
}

# Runs httpd -t on the configuration: (true when it is valid, what it said).
sub check_config
{
    my ($self) = @_;
    $self->{port} ||= free_port();
    $self->{tls_port} ||= free_port() if $self->{tls};
    $self->write_config;
    local %ENV = (%ENV, %{ $self->{env} });
    my $text = `'$self->{program}' -t -d '$self->{dir}' -f '$self->{dir}/conf/httpd.conf' 2>&1`;
    return ($? == 0, $text);
}

# ---- life --------------------------------------------------------------------------------------------------------------

sub start
{
    my ($self) = @_;
    for my $try (1 .. 5) {
        $self->{port} = free_port();
        $self->{tls_port} = free_port() if $self->{tls};
        $self->write_config;
        my $resumed = $self->_resumed;
        $self->{process} = ChatStream::Process->start(
            name    => 'httpd',
            command => [ $self->{program}, '-D', 'FOREGROUND', '-d', $self->{dir}, '-f', "$self->{dir}/conf/httpd.conf" ],
            output  => "$self->{dir}/logs/startup.log",
            env     => $self->{env},
        );
        my $ready = wait_until(sub { !$self->{process}->alive || ($self->_resumed > $resumed && $self->_connects) }, 20);
        return $self if $ready && $self->{process}->alive && $self->wait_children;
        my $said = (slurp("$self->{dir}/logs/startup.log") // '') . $self->log;
        $self->{process}->stop;
        my $status = $self->{process}->status;
        $said .= 'it was ended by signal ' . ($status & 127) . "\n" if $status & 127;
        die "httpd did not start:\n$said\n" if $said !~ /could not bind to address/;
        unlink "$self->{dir}/logs/startup.log", $self->{error_log};
    }
    die "httpd found no free port\n";
}

# How often httpd has said that it is ready: at its start and after each restart.
sub _resumed
{
    my ($self) = @_;
    return scalar(() = $self->log =~ /resuming normal operations/g);
}

sub _connects
{
    my ($self) = @_;
    return !!IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 1);
}

# Waits until as many children are there as were asked for.
sub wait_children
{
    my ($self) = @_;
    return wait_until(sub { !$self->alive || $self->children >= $self->{children} }, 10) && $self->alive;
}

sub pid      { $_[0]{process}->pid }
sub alive    { $_[0]{process} && $_[0]{process}->alive }
sub children { return children_of($_[0]->pid) }
sub port     { $_[0]{port} }
sub tls_port { $_[0]{tls_port} }
sub log      { slurp($_[0]{error_log}) // '' }
sub access_log { slurp($_[0]{access_log}) // '' }
sub startup_log { slurp("$_[0]{dir}/logs/startup.log") // '' }

sub _restart_with
{
    my ($self, $signal) = @_;
    my $resumed = $self->_resumed;
    $self->{process}->signal($signal) or die "httpd is not running\n";
    wait_until(sub { !$self->alive || $self->_resumed > $resumed }, 30) && $self->alive
        or die "httpd did not come back after $signal:\n" . $self->log;
    return $self;
}

# Returns when the new generation is there; children of the old one may still finish their streams.
sub graceful { my ($self) = @_; return $self->_restart_with('USR1') }
sub restart  { my ($self) = @_; return $self->_restart_with('HUP') }

# Ends without waiting for streams; true when it went within the time.
sub stop { my ($self, $timeout) = @_; return !$self->{process} || $self->{process}->stop($timeout || 20) }

# Asks for the end after the last stream; ->alive says whether it is over.
sub graceful_stop { my ($self) = @_; return $self->{process}->signal('WINCH') }

# Sends a signal to one child (the first, or that pid); the pid.
sub kill_child
{
    my ($self, $signal, $pid) = @_;
    ($pid) = $self->children if !$pid;
    kill $signal || 'KILL', $pid or die "no child to kill\n";
    return $pid;
}

# ---- connections -------------------------------------------------------------------------------------------------------

# Whose connection is whose: { port of the client => pid of the child that has accepted it }.
sub _owners
{
    my ($self) = @_;
    my %owner;
    for my $pid ($self->children) {
        my %port;
        for my $line (split /\n/, slurp("/proc/$pid/net/tcp") // '') {
            my ($remote, $inode) = (split ' ', $line)[ 2, 9 ];
            $port{$inode} = hex $1 if defined $inode && $remote =~ /:([0-9A-F]{4})$/;
        }
        for my $link (glob "/proc/$pid/fd/*") {
            my $port = (readlink $link // '') =~ /^socket:\[(\d+)\]$/ ? $port{$1} : undef;
            $owner{$port} = $pid if $port;
        }
    }
    return \%owner;
}

sub _port_of { my ($client) = @_; return (Socket::unpack_sockaddr_in(getsockname $client->socket))[0] }

# The child that has accepted the connection of this client (ChatStream::Client, TCP); undef: none has.
sub child_of { my ($self, $client) = @_; return $self->_owners->{ _port_of($client) } }

# Runs `connect`, which opens connections and sends their requests, so that the child `pid` accepts them: the others are held
# for that moment. Returns the clients that `connect` returns.
sub connect_to
{
    my ($self, $pid, $connect) = @_;
    my @others = grep { $_ != $pid } $self->children;
    kill 'STOP', @others;
    # Each thread stops for itself.
    for my $stat (map { glob "/proc/$_/task/*/stat" } @others) {
        wait_until(sub { (slurp($stat) // '') !~ /\) [RSD] /s }, 10);
    }
    my @clients = eval { $connect->() };
    my $error = $@;
    my @ports = map { _port_of($_) } @clients;
    my $owner;
    my $taken = wait_until(sub { $owner = $self->_owners; !grep { !$owner->{$_} } @ports }, 20);
    kill 'CONT', @others;
    die $error if $error;
    die "child $pid did not take every connection\n" if !$taken || grep { $owner->{$_} != $pid } @ports;
    return wantarray ? @clients : $clients[0];
}

# ---- file descriptors --------------------------------------------------------------------------------------------------

# Files of the recorder and of SQLite: they come and go with what there is to write down.
my $RECORDS = qr/\/state$|\.(?:journal|open|lock|done|head|corrupt|refused)(?: \(deleted\))?$|\.(?:sqlite|db)(?:-wal|-shm|-journal)?(?: \(deleted\))?$/;

# What a child holds open: { client => connections on our ports, records => files of the recorder and connections to the
# database, other => everything else }. Connections to the upstreams (`ports`) are not counted: libcurl keeps idle ones for
# the next request.
sub descriptors
{
    my ($self, $pid, @ports) = @_;
    my %own = map { $_ => 1 } grep { defined } @$self{qw(port tls_port)};
    my $database = $self->{database_port} // 0;
    my %upstream = map { $_ => 1 } @ports;
    my %sockets;
    for my $table (qw(tcp tcp6)) {
        for my $line (split /\n/, slurp("/proc/$pid/net/$table") // '') {
            my ($local, $remote, $state, $inode) = (split ' ', $line)[ 1, 2, 3, 9 ];
            next if !defined $inode || $inode !~ /^\d+$/;
            my ($local_port, $remote_port) = map { hex((split /:/)[1]) } $local, $remote;
            $sockets{$inode} = $state eq '0A' ? 'listen' : $upstream{$remote_port} ? 'upstream' : $own{$local_port} ? 'client'
                : $database && $remote_port == $database ? 'records' : 'other';
        }
    }
    my %count = (client => 0, upstream => 0, other => 0, listen => 0, records => 0);
    my %names;
    for my $link (glob "/proc/$pid/fd/*") {
        my $target = readlink $link // next;
        my $kind = $target =~ /^socket:\[(\d+)\]$/ ? $sockets{$1} || 'other' : $target =~ $RECORDS ? 'records' : 'other';
        $count{$kind}++;
        $names{$target}++ if $kind eq 'other' || $kind eq 'records';
    }
    return { %count, names => \%names };
}

1;
