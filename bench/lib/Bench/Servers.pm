# SPDX-License-Identifier: Apache-2.0
package Bench::Servers;

# How each server under test is configured. One worker process each (chatstream: as many as a load asks for), access
# log on for nginx and both httpd variants in the same format, requests never limited by the configuration.
#
# A plan holds what a configuration depends on: streams (at once), children, query (of the upstream's /sse),
# warm (query of the short warm-up answers), keep (seconds that an ended stream can be read again).
#
# chatstream-* are mod_chatstream with more of it switched on; what that costs is told against the plain one.

use strict;
use warnings;
use utf8;
use Exporter 'import';
use Digest::SHA ();
use JSON::PP ();
use MIME::Base64 ();
use POSIX qw(ceil);
use Bench::Records qw(lacks_database database);

our @EXPORT_OK = qw(servers missing command paths headers is_chatstream variant);

our %title = (
    relay      => 'bare epoll relay (floor)',
    nginx      => 'nginx, `proxy_buffering off`',
    proxy      => 'httpd mod_proxy_http, `flushpackets=on`',
    chatstream => 'httpd mod_chatstream',
    'chatstream-gate'   => 'mod_chatstream, every gate check',
    'chatstream-sqlite' => 'mod_chatstream, all records in SQLite',
    'chatstream-pgsql'  => 'mod_chatstream, all records in PostgreSQL',
    'chatstream-frozen' => 'the same, PostgreSQL frozen',
    node       => 'Node, hand-written relay',
);

my %variant = (
    'chatstream-gate'   => { gate => 1 },
    'chatstream-sqlite' => { records => 'sqlite' },
    'chatstream-pgsql'  => { records => 'pgsql' },
    'chatstream-frozen' => { records => 'pgsql', frozen => 1 },
);

sub servers { return (qw(relay nginx proxy chatstream), map({ "chatstream-$_" } qw(gate sqlite pgsql frozen)), 'node') }

# What is switched on in addition: gate, records (where to), frozen. Empty for everybody else.
sub variant { my ($name) = @_; return $variant{$name} // {} }

sub is_chatstream { my ($name) = @_; return $name =~ /^chatstream(?:-|$)/ }

sub find_program {
    my (@names) = @_;
    for my $name (@names) {
        return $name if $name =~ m{/} && -x $name;
        for my $dir (split(/:/, $ENV{PATH} // ''), '/usr/sbin', '/sbin') {
            return "$dir/$name" if -x "$dir/$name";
        }
    }
    return;
}

sub module_dir {
    my ($env) = @_;
    for my $dir ($env->{modules} // (), '/usr/lib/apache2/modules', '/usr/lib64/httpd/modules',
        '/usr/libexec/apache2') {
        return $dir if -e "$dir/mod_mpm_event.so";
    }
    return;
}

# Why a server cannot be measured here; undef when it can.
sub missing {
    my ($env, $name) = @_;
    return $env->{relay} ? undef : 'bench/chatstream-relay is not built' if $name eq 'relay';
    return find_program('nginx') ? undef : 'nginx is not installed'      if $name eq 'nginx';
    return find_program('node')  ? undef : 'node is not installed'       if $name eq 'node';
    return 'httpd is not installed' if !find_program('apache2', 'httpd') || !module_dir($env);
    return "$env->{module} is not built" if is_chatstream($name) && !-e $env->{module};
    my $records = variant($name)->{records};
    return $records ? lacks_database($records) : undef;
}

# What the client asks: everybody passes the upstream's own path on, mod_chatstream has its own.
sub paths {
    my ($name, $plan) = @_;
    return ('/stream?message=hi', '/warm?message=hi') if is_chatstream($name);
    return ("/sse?$plan->{query}", "/sse?$plan->{warm}");
}

sub write_file {
    my ($path, $text) = @_;
    open my $fh, '>', $path or die "$path: $!\n";
    print {$fh} $text;
    close $fh or die "$path: $!\n";
    return $path;
}

sub nginx_conf {
    my ($dir, $port, $upstream) = @_;
    my $user = $> == 0 ? 'user www-data;' : '';
    return <<"END";
$user
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid $dir/nginx.pid;
error_log $dir/error.log warn;
events { worker_connections 19900; }
http {
    log_format common '\$remote_addr - \$remote_user [\$time_local] "\$request" \$status \$body_bytes_sent';
    access_log $dir/access.log common;
    client_body_temp_path $dir/nginx-body;
    proxy_temp_path $dir/nginx-proxy;
    fastcgi_temp_path $dir/nginx-fastcgi;
    uwsgi_temp_path $dir/nginx-uwsgi;
    scgi_temp_path $dir/nginx-scgi;
    keepalive_requests 1000000;
    upstream simulator {
        server 127.0.0.1:$upstream;
        keepalive 512;
        keepalive_requests 1000000;
    }
    server {
        listen 127.0.0.1:$port backlog=4096;
        location / {
            proxy_pass http://simulator;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 900s;
        }
    }
}
END
}

# Distributions differ in what is built into httpd: what has no file is taken to be inside.
sub load_modules {
    my ($env, @names) = @_;
    my $dir = module_dir($env);
    return join '', map { "LoadModule ${_}_module $dir/mod_$_.so\n" } grep { -e "$dir/mod_$_.so" } @names;
}

sub httpd_common {
    my ($env, $dir, $port, $threads, $children, $factor) = @_;
    my $load = load_modules($env, qw(mpm_event authz_core log_config unixd));
    my $user = $> == 0 ? "User www-data\nGroup www-data" : '';
    my $all = $threads * $children;
    return <<"END";
ServerRoot $dir
ServerName bench.local
DefaultRuntimeDir $dir/run
PidFile $dir/httpd.pid
Listen 127.0.0.1:$port
ListenBacklog 4096
$load$user
ServerLimit $children
StartServers $children
ThreadLimit $threads
ThreadsPerChild $threads
MaxRequestWorkers $all
MinSpareThreads 1
MaxSpareThreads $all
MaxConnectionsPerChild 0
AsyncRequestWorkerFactor $factor
ThreadStackSize 262144
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
Timeout 900
GracefulShutdownTimeout 2
ErrorLog $dir/error.log
LogLevel warn
LogFormat "%h %l %u %t \\"%r\\" %>s %b" common
CustomLog $dir/access.log common
<Directory />
    AllowOverride None
</Directory>
<Location />
    Require all granted
</Location>
END
}

# mod_proxy_http keeps a thread per stream, so it needs as many as there are streams.
sub proxy_conf {
    my ($env, $dir, $port, $upstream, $plan) = @_;
    my $load = load_modules($env, qw(proxy proxy_http));
    return httpd_common($env, $dir, $port, $plan->{streams} + 64, 1, 4) . <<"END";
$load
ProxyTimeout 900
ProxyPass "/" "http://127.0.0.1:$upstream/" flushpackets=on
END
}

# ---- the gate ----

use constant ORIGIN => 'https://bench.example';

sub base64url { my ($bytes) = @_; return MIME::Base64::encode_base64url($bytes) }

# One secret and one token for the run, which outlives it by far.
sub token {
    my ($env) = @_;
    $env->{secret} //= 'a secret of the benchmark and of nothing else';
    return $env->{token} //= do {
        my $json = JSON::PP->new->canonical;
        my %claims = (sub => 'anna', email => 'anna@bench.example', role => 'user', iat => time - 60, exp => time + 31_536_000);
        my $input = base64url($json->encode({ alg => 'HS256', typ => 'JWT' })) . '.' . base64url($json->encode(\%claims));
        "$input." . base64url(Digest::SHA::hmac_sha256($input, $env->{secret}));
    };
}

# More request headers, as one argument of the load client, which puts it between two line ends as it is.
sub headers {
    my ($env, $name) = @_;
    return if !variant($name)->{gate};
    return ('--header', join "\r\n", 'Authorization: Bearer ' . token($env), 'Origin: ' . ORIGIN);
}

# Every check of the gate is asked and lets everybody in: server-wide lines, lines for each location.
sub gate_conf {
    my ($env, $dir) = @_;
    token($env);
    my $key = write_file("$dir/jwt-secret", $env->{secret});
    my $flags = write_file("$dir/flags.json", '{"enabled":true}');
    return ("ChatStreamFlagFile $flags\n", <<"END");
    ChatStreamRollout 99.99
    ChatStreamCohort somebody-else
    ChatStreamCORS @{[ORIGIN]}
    ChatStreamAuth required
    ChatStreamJWTKey HS256 $key
    ChatStreamRateLimit 100000/60
    ChatStreamMaxPerUser 100000
END
}

# ---- records ----

sub records_conf {
    my ($env, $dir, $kind) = @_;
    my $server = '';
    if ($kind eq 'pgsql') {
        my $database = database($env->{tmp});
        $server = load_modules($env, 'dbd') . 'DBDriver ' . $database->driver . "\nDBDParams \"" . $database->params . "\"\n";
    }
    return ("${server}ChatStreamStateDir $dir/run/chatstream\n", "    ChatStreamRecord sessions transcript audit\n");
}

sub chatstream_conf {
    my ($env, $dir, $port, $upstream, $plan, $variant) = @_;
    my $children = $plan->{children} // 1;
    my $factor = ceil($plan->{streams} * 2 / 64) + 4;
    my $load = load_modules($env, 'watchdog');
    my @more = $variant->{gate} ? gate_conf($env, $dir)
        : $variant->{records} ? records_conf($env, $dir, $variant->{records}) : ('', '');
    my $replay = $plan->{keep} ? "ChatStreamReplay 256k $plan->{keep}" : '';
    return httpd_common($env, $dir, $port, 64, $children, $factor) . <<"END";
$load
LoadModule chatstream_module $env->{module}
ChatStreamMaxStreams $plan->{slots}
ChatStreamArena $plan->{arena}
ChatStreamEnabled On
ChatStreamMaxPerUser 0
ChatStreamTimeout 900 headers=60 first-token=900 idle=900
$replay
$more[0]
<Location /stream>
    SetHandler chatstream
    ChatStreamUpstream http://127.0.0.1:$upstream/sse?$plan->{query} dialect=sse
$more[1]</Location>
<Location /warm>
    SetHandler chatstream
    ChatStreamUpstream http://127.0.0.1:$upstream/sse?$plan->{warm} dialect=sse
$more[1]</Location>
<Location /health>
    SetHandler chatstream-health
</Location>
END
}

# Writes what the server needs into dir; returns its command line.
sub command {
    my ($env, $name, $dir, $port, $upstream, $plan) = @_;
    if ($name eq 'relay') {
        return ($env->{relay}, '--listen', "127.0.0.1:$port", '--upstream', "127.0.0.1:$upstream");
    }
    if ($name eq 'node') {
        return (find_program('node'), "$env->{bench}/node-relay.mjs", $port, $upstream);
    }
    if ($name eq 'nginx') {
        my $conf = write_file("$dir/nginx.conf", nginx_conf($dir, $port, $upstream));
        return (find_program('nginx'), '-p', $dir, '-c', $conf, '-e', "$dir/error.log");
    }
    mkdir "$dir/run";
    if ($> == 0) {
        my ($uid, $gid) = (getpwnam 'www-data')[2, 3];
        chown $uid, $gid, "$dir/run" if defined $uid;
    }
    my $text = $name eq 'proxy' ? proxy_conf($env, $dir, $port, $upstream, $plan)
        : chatstream_conf($env, $dir, $port, $upstream, $plan, variant($name));
    my $conf = write_file("$dir/httpd.conf", $text);
    return (find_program('apache2', 'httpd'), '-f', $conf, '-DFOREGROUND');
}

1;
