#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Key sets: from a file, and from a server that is asked outside of requests, seldom, and may fail in any way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Process;
use ChatStream::Test;
use ChatStream::Token;

my $NONE = ChatStream::Test->new(start => 0, upstreams => []);    # for its directory
my $dir = $NONE->dir;
my %key = map { $_->[0] => ChatStream::Token->new($_->[1], dir => $dir, kid => $_->[0]) }
    [ rsa => 'RS256' ], [ pss => 'PS256' ], [ ec => 'ES256' ], [ new => 'ES256' ], [ newer => 'ES256' ];

sub write_file
{
    my ($name, $text) = @_;
    open my $handle, '>', "$name.new" or die "$name: $!";
    print $handle $text;
    close $handle;
    rename "$name.new", $name or die;
    return $name;
}

sub of { my ($key, %header) = @_; return (headers => [ Authorization => 'Bearer ' . $key->sign({ sub => 'anna' }, %header) ]) }
sub status { my ($t, @of) = @_; return $t->request('/chat?message=hi', of(@of))->status }

# ---- the issuer: a server that does what its mode file says, and notes each request --------------------------------------------

my $SERVER = <<'END';
use IO::Socket::INET;
$SIG{PIPE} = 'IGNORE';
my ($dir) = @ARGV;
my $server = IO::Socket::INET->new(Listen => 9, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
sub slurp { open my $handle, '<', $_[0] or return ''; local $/; return <$handle> }
open my $port, '>', "$dir/port.new"; print $port $server->sockport; close $port; rename "$dir/port.new", "$dir/port";
my @held;
while (my $client = $server->accept) {
    my $line = <$client>;
    while (defined(my $header = <$client>)) { last if $header =~ /^\r?\n$/ }
    if ($line =~ m{^GET /release}) { @held = (); next }
    my $mode = slurp("$dir/mode");
    open my $note, '>>', "$dir/requests"; print $note $line; close $note;
    if ($mode =~ /^hang/) { push @held, $client; next }
    my ($status, $body) = split /\n/, $mode, 2;
    print $client "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
}
END

package Issuer;
my $issuers = 0;
sub new
{
    my ($class, $dir, $mode) = @_;
    my $self = bless { dir => "$dir/issuer-" . ++$issuers }, $class;
    mkdir $self->{dir} or die;
    $self->mode($mode // '');
    $self->{process} = ChatStream::Process->start(command => [ $^X, '-e', $SERVER, $self->{dir} ], output => "$self->{dir}/output");
    ChatStream::Process::wait_until(sub { -s "$self->{dir}/port" }, 10) or die 'the issuer did not start';
    return $self;
}
sub url { my ($self) = @_; return 'http://127.0.0.1:' . ChatStream::Process::slurp("$self->{dir}/port") . '/keys' }
sub mode { my ($self, $mode) = @_; main::write_file("$self->{dir}/mode", $mode); return }
sub serves { my ($self, @keys) = @_; return $self->mode("200 OK\n" . ChatStream::Token::jwks(@keys)) }
sub count { my ($self) = @_; return scalar(() = (ChatStream::Process::slurp("$self->{dir}/requests") // '') =~ /^GET \/keys HTTP/mg) }
# Lets go of those it keeps waiting.
sub release { my ($self) = @_; eval { ChatStream::Client->new(port => ChatStream::Process::slurp("$self->{dir}/port"), path => '/release')->wait_closed }; return }
sub wait_count { my ($self, $number) = @_; return ChatStream::Process::wait_until(sub { $self->count >= $number }, 15) }
package main;

# ---- the clock: a minute passes when the test says so ---------------------------------------------------------------------------

my $CLOCK = <<'END';
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile const char *ahead = "";
__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("CHATSTREAM_TEST_CLOCK"), O_RDONLY);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) ahead = map;
}
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int rv = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_MONOTONIC) now->tv_sec += atoi((const char *)ahead);
    return rv;
}
END

my $minutes = 0;
write_file("$dir/clock.c", $CLOCK);
my $has_clock = system(($ENV{CC} || 'cc') . " -shared -fPIC -O1 -o '$dir/clock.so' '$dir/clock.c' >/dev/null 2>&1") == 0;
open my $clock, '+>', "$dir/clock" or die;
chmod 0644, "$dir/clock";
syswrite $clock, pack 'a4096', 0;
sub minute_passes { sysseek $clock, 0, 0; syswrite $clock, pack 'a16', ++$minutes * 61; return }

# ---- a file ----------------------------------------------------------------------------------------------------------------------

my $file = "$dir/keys.json";
ChatStream::Token::write_jwks($file, @key{qw(rsa pss ec)});
my $t = ChatStream::Test->new(config => chat('/chat', 'sse?tokens=1', "ChatStreamJWKS $file"));
for my $name (qw(rsa pss ec)) {
    is status($t, $key{$name}), 200, "a file: $name";
    is status($t, $key{$name}, kid => undef), 200, "a file: $name, without a kid";
    is status($t, $key{$name}, kid => $_), 401, "a file: $name, as $_" for grep { $_ ne $name } qw(rsa pss ec nobody);
}
is status($t, $key{new}), 401, 'a file: a key that is not in it';
my $answer = $t->request('/chat?message=hi', of($key{new}));
like $answer->header('www-authenticate'), qr/^Bearer error="invalid_token", error_description="[^"]+"$/, 'and told so';
ChatStream::Token::write_jwks($file, @key{qw(new)});
is status($t, $key{ec}), 200, 'a file is read at the start';
$t->graceful;
is wait_until(sub { status($t, $key{new}) == 200 }, 10), 1, 'and at each restart';
is status($t, $key{ec}), 401, 'what is not in it any more does not count any more';
$t->check;

for my $case ([ 'not JSON', 'keys' ], [ 'no keys', '{"keys":[]}' ], [ 'none for signatures', '{"keys":[{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}]}' ]) {
    my ($name, $text) = @$case;
    write_file("$dir/bad.json", $text);
    my $started = eval { ChatStream::Test->new(upstreams => [], config => "ChatStreamJWKS $dir/bad.json\n"); 1 };
    ok !$started, "a file, $name: httpd does not start";
    like $@, qr/ChatStreamJWKS/, "a file, $name: and names the directive";
}

# ---- a server --------------------------------------------------------------------------------------------------------------------

{
    my $issuer = Issuer->new($dir);
    $issuer->serves(@key{qw(rsa ec)});
    my $served = ChatStream::Test->new(start => 0, config => chat('/chat', 'sse?tokens=1', 'ChatStreamJWKS ' . $issuer->url) . chat('/needed', 'sse?tokens=1',
        'ChatStreamAuth required', 'ChatStreamJWKS ' . $issuer->url));
    if ($has_clock) {
        my $env = $served->httpd->{env};
        $env->{LD_PRELOAD} = join ' ', grep { defined } $env->{LD_PRELOAD}, "$dir/clock.so";
        $env->{CHATSTREAM_TEST_CLOCK} = "$dir/clock";
    }
    $served->start;
    is status($served, $key{ec}), 200, 'a server: a token right after the start';
    ok $issuer->wait_count(2), 'its set is fetched at the start';
    my $count = $issuer->count;
    is $count, 2, 'once for each ChatStreamJWKS';
    is status($served, $_), 200, 'and good for each of its keys' for @key{qw(rsa ec rsa ec)};
    is status($served, $key{new}), 401, 'a key that is not in it, and it is new: 401' for 1 .. 5;
    is status($served, $key{ec}, kid => 'rsa'), 401, 'the kid of another key';
    is $issuer->count, $count, 'for none of these the server is asked';

    SKIP: {
        skip 'no compiler for the clock', 1 if !$has_clock;

        # rotation
        $issuer->serves(@key{qw(ec new)});
        minute_passes();
        is status($served, $key{rsa}), 200, 'a minute later: a known key is good, the server is not asked';
        is $issuer->count, $count, 'really not';
        $answer = $served->request('/chat?message=hi', of($key{new}));
        is $answer->status . ' ' . $answer->json->{code}, '503 unavailable', 'an unknown one: try again';
        like $answer->header('retry-after'), qr/^[1-9]$/, 'soon';
        is $answer->header('www-authenticate'), undef, 'it may be good after all';
        ok wait_until(sub { status($served, $key{new}) == 200 }, 10), 'and it is: the new set has it';
        is $issuer->count, ++$count, 'for which the server was asked once';
        is status($served, $key{rsa}), 401, 'the key that went is good no more';
        is status($served, $key{newer}), 401, 'and another unknown one is told so' for 1 .. 5;
        is $issuer->count, $count, 'at most once a minute';

        # failures: the last good set stays
        for my $case ([ 'an error' => "500 Oops\nno" ], [ 'garbage' => "200 OK\n<html>" ], [ 'no keys' => "200 OK\n" . '{"keys":[]}' ], [ 'too much' => "200 OK\n" . '[' x 1_100_000 ]) {
            my ($name, $mode) = @$case;
            $issuer->mode($mode);
            minute_passes();
            is status($served, $key{newer}), 503, "$name: an unknown key, try again";
            ok $issuer->wait_count(++$count), "$name: the server is asked";
            ok $served->wait_log(qr/(?:ChatStreamJWKS.*the last good set stays in force.*){@{[ $count - 3 ]}}/s), "$name: the error log says so";
            is status($served, $_), 200, "$name: the last good set is good" for @key{qw(ec new)};
            status($served, $key{newer}) for 1 .. 5;
            is $issuer->count, $count, "$name: and a failure is not asked for again at once";
        }
        $issuer->mode("hang\n");
        minute_passes();
        is status($served, $key{newer}), 503, 'a server that hangs: an unknown key, try again';
        ok $issuer->wait_count(++$count), 'it is being asked';
        is status($served, $key{ec}), 200, 'and meanwhile known keys are good';
        is status($served, $key{newer}), 503, 'and unknown ones do not wait for it';
        is $served->request('/chat?message=hi')->status, 200, 'nor does who has none';
        is $issuer->count, $count, 'nobody asks it again meanwhile';
        $issuer->serves(@key{qw(newer)});
        my $failures = () = $served->error_log =~ /the last good set stays in force/g;
        $issuer->release;
        ok wait_until(sub { (() = $served->error_log =~ /the last good set stays in force/g) > $failures }, 10), 'which ends at last';
        minute_passes();
        ok wait_until(sub { status($served, $key{newer}) == 200 }, 15), 'it comes back with a new key';
        $served->expect_log(qr/ChatStreamJWKS: '\Q@{[ $issuer->url ]}\E': .*the last good set stays in force/);
    }
    unlike $served->error_log, qr/eyJ/, 'no log holds a token';
    $served->check;
    $issuer->{process}->stop;
}

# ---- a server that is not there at the start ----------------------------------------------------------------------------------------

{
    my $failing = Issuer->new($dir, "503 Later\n");
    my $late = ChatStream::Test->new(http2 => 1, config => chat('/chat', 'sse?tokens=1', 'ChatStreamJWKS ' . $failing->url));
    is $late->request('/chat?message=hi')->status, 200, 'no set yet: who sends no token is not concerned';
    my $refused = $late->request('/chat?message=hi', of($key{ec}));
    is $refused->status . ' ' . $refused->json->{code}, '503 unavailable', 'who does is asked to come again';
    like $refused->header('retry-after'), qr/^[1-9]$/, 'soon';
    is $late->request('/chat?message=hi', of($key{ec}), http2 => 1)->status, 503, 'over HTTP/2 too';
    is $late->request('/chat?message=hi', of($key{ec}, alg => 'none'))->status, 401, 'no set will make alg none good';
    is $late->request('/chat?message=hi', headers => [ Authorization => 'Bearer nonsense' ])->status, 401, 'nor nonsense';
    $failing->serves($key{ec});
    ok wait_until(sub { $late->request('/chat?message=hi', of($key{ec}))->status == 200 }, 15), 'it is asked again within seconds, and all is well';
    $late->expect_log(qr/ChatStreamJWKS: '\Q@{[ $failing->url ]}\E'/);
    $late->check;
}

# One that hangs, between two that do not.
{
    my ($one, $hanging, $two) = (Issuer->new($dir), Issuer->new($dir, "hang\n"), Issuer->new($dir));
    $_->serves($key{ec}) for $one, $two;
    my $late = ChatStream::Test->new(
        config => chat('/one', 'sse?tokens=1', 'ChatStreamJWKS ' . $one->url)
            . chat('/hanging', 'sse?tokens=1', 'ChatStreamJWKS ' . $hanging->url, 'ChatStreamJWTKey RS256 ' . $key{rsa}->file)
            . chat('/two', 'sse?tokens=1', 'ChatStreamJWKS ' . $two->url),
    );
    ok $hanging->wait_count(1), 'a server that hangs is being asked';
    is $late->request("$_?message=hi", of($key{ec}))->status, 200, "$_: the others are not kept waiting by it" for '/one', '/two';
    is $late->request('/hanging?message=hi', of($key{rsa}))->status, 200, 'another key of the location is good meanwhile';
    is $late->request('/hanging?message=hi', of($key{ec}))->status, 503, 'no request waits for it';
    $hanging->mode("503 Later\n");
    $hanging->release;
    $late->allow_log(qr/ChatStreamJWKS: '\Q@{[ $hanging->url ]}\E'/);
    $late->check;
}

# ---- TLS -----------------------------------------------------------------------------------------------------------------------------

{
    my $issuer = ChatStream::Test->new(tls => 1, upstreams => []);
    ChatStream::Token::write_jwks($issuer->dir . '/htdocs/keys.json', $key{rsa});
    my $url = 'https://localhost:' . $issuer->httpd->tls_port . '/keys.json';
    my $secure = ChatStream::Test->new(config => chat('/chat', 'sse?tokens=1', "ChatStreamJWKS $url ca=$issuer->{httpd}{ca}") . chat('/unknown', 'sse?tokens=1', "ChatStreamJWKS $url"));
    is status($secure, $key{rsa}), 200, 'https, with the CA it is signed by';
    is $secure->request('/unknown?message=hi', of($key{rsa}))->status, 503, 'without it nothing it says is believed';
    $secure->expect_log(qr/ChatStreamJWKS: '\Q$url\E': .*(?:certificate|SSL)/i);
    $secure->check;
    $issuer->check;
}
done_testing();
